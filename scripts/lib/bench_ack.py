"""Acknowledgements of `swanci serve` against adnanh/webhook; called by scripts/bench ack."""

import argparse
import hashlib
import hmac
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

SECRET = "swanci-bench"
THREADS = 2
CONNECTIONS = 8
MARK = "@"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def resident_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Payload:
    """A payload as a template, and signed commits for it, each of which is a different merge."""

    def __init__(self, work, name, raw, count):
        payload = json.loads(raw)
        pull = payload["pull_request"]
        commit = pull["merge_commit_sha"]
        text = raw.decode()
        # `@` splits the template, so escape each `@` of the payload
        text = text.replace(MARK, "\\u0040")
        self.template = text.replace(commit, MARK) if commit else text
        self.size = len(self.body("0" * 40))
        self.repository = payload["repository"]["full_name"]
        self.branch = pull["base"]["ref"]
        self.body_file = work / f"{name}.template"
        self.body_file.write_text(self.template)
        self.lines_file = work / f"{name}.lines"
        self.count = count
        with self.lines_file.open("w") as f:
            for i in range(count):
                c = self.commit(i)
                f.write(f"{c} {self.signature(c)}\n")

    @staticmethod
    def commit(i):
        return hashlib.sha1(f"merge {i}".encode()).hexdigest()

    def body(self, commit):
        return self.template.replace(MARK, commit).encode()

    def signature(self, commit):
        return hmac.new(SECRET.encode(), self.body(commit), "sha256").hexdigest()


def payloads(fixtures, work, merges):
    """An opened pull request and a merge, both recorded and about 24 kB; synthetic ones without fixtures."""
    base = Path(fixtures) / "payloads" / "derived" / "github" / "merged_body_null.json"
    opened = Path(fixtures) / "payloads" / "go-playground-webhooks" / "github" / "pull-request.json"
    if base.exists():
        raw = base.read_bytes()
    else:
        print("note: no fixtures, so the payload is synthetic", file=sys.stderr)
        repo = {"full_name": "geetanshjuneja/test-bors", "default_branch": "main",
                "clone_url": "https://github.com/geetanshjuneja/test-bors.git",
                "owner": {"login": "geetanshjuneja"}, "description": "x" * 23_000}
        raw = json.dumps({"action": "closed", "number": 5, "repository": repo, "pull_request": {
            "number": 5, "title": "t", "merged": True, "state": "closed", "merge_commit_sha": "8c1c06a1" * 5,
            "html_url": "https://github.com/geetanshjuneja/test-bors/pull/5", "user": {"login": "a"},
            "head": {"sha": "49641581" * 5, "ref": "x"}, "base": {"ref": "main", "sha": "1" * 40}}}).encode()
    merge = Payload(work, "merge", raw, merges)
    if opened.exists():
        other = opened.read_bytes()
    else:
        closed = json.loads(raw)
        closed["pull_request"]["merged"] = False
        other = json.dumps(closed).encode()
    no_merge = Payload(work, "no-merge", other, THREADS)
    return no_merge, merge


class Server:
    """A server under test."""

    def __init__(self, command, port, path, probe, env=None):
        self.port, self.path = port, path
        self.log = open(os.devnull, "w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, env=env)
        for _ in range(150):
            if self.process.poll() is not None:
                sys.exit(f"{command[0]} exited with code {self.process.returncode} at start: {' '.join(command)}")
            try:
                self.get(probe)
                return
            except OSError:
                time.sleep(0.1)
        sys.exit(f"{command[0]} does not answer")

    def get(self, path):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        c.request("GET", path)
        return c.getresponse().status

    def post(self, payload, commit):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        c.request("POST", self.path, payload.body(commit), {
            "Content-Type": "application/json", "X-GitHub-Event": "pull_request",
            "X-GitHub-Delivery": "00000000-0000-4000-8000-000000000000",
            "X-Hub-Signature-256": "sha256=" + payload.signature(commit)})
        answer = c.getresponse()
        return answer.status, answer.read().decode(errors="replace")

    def wrk(self, payload, seconds, start=0, count=None):
        env = dict(os.environ, ACK_BODY=str(payload.body_file), ACK_LINES=str(payload.lines_file), ACK_FROM=str(start),
                   ACK_COUNT=str(count or payload.count), ACK_THREADS=str(THREADS), ACK_PATH=self.path,
                   ACK_EVENT="pull_request")
        out = subprocess.run(
            ["wrk", "-t", str(THREADS), "-c", str(CONNECTIONS), "-d", f"{seconds}s", "--timeout", "10s", "-s",
             str(Path(__file__).with_name("bench_ack.lua")), f"http://127.0.0.1:{self.port}"],
            env=env, check=True, capture_output=True, text=True).stdout
        result = json.loads(out.strip().splitlines()[-1])
        result["rate"] = result["requests"] / result["seconds"]
        return result

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def swanci(binary, work, payload, number):
    port = free_port()
    folder = work / f"serve-{number}"
    folder.mkdir()
    secret = folder / "secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    (folder / "swanci.toml").write_text(
        f'state_dir = "state"\n[registry]\nhost = "127.0.0.1:5000"\nplain_http = true\n'
        f'[serve]\nlisten = "127.0.0.1:{port}"\nsecret_file = "secret"\n'
        f'[[repository]]\nname = "{payload.repository}"\nbranches = ["{payload.branch}"]\n')
    # --jobs 0 accepts and queues without running, so only the acknowledgement is measured
    return Server([binary, "--config", str(folder / "swanci.toml"), "serve", "--jobs", "0"], port, "/webhook", "/healthz")


def webhook(work, number):
    """adnanh/webhook with the same task: the signature, and a rule for merged pull requests that runs /bin/true."""
    port = free_port()
    hooks = work / f"hooks-{number}.json"

    def match(name, value):
        return {"match": {"type": "value", "value": value, "parameter": {"source": "payload", "name": name}}}

    signed = {"match": {"type": "payload-hmac-sha256", "secret": SECRET,
                        "parameter": {"source": "header", "name": "X-Hub-Signature-256"}}}
    hooks.write_text(json.dumps([{
        "id": "merged", "execute-command": "/bin/true",
        "trigger-rule": {"and": [signed, match("action", "closed"), match("pull_request.merged", "true")]}}]))
    return Server(["webhook", "-hooks", str(hooks), "-ip", "127.0.0.1", "-port", str(port)], port, "/hooks/merged", "/")


def check(server, payload, name, expected):
    """Checks that the server gives the expected answer to one delivery."""
    status, body = server.post(payload, Payload.commit(10**9))
    if status not in expected:
        sys.exit(f"{name} answered {status} {body[:200]!r}, expected one of {expected}")


def memory(server, payload, deliveries):
    """Resident megabytes after half and after all of the deliveries, each a new merge."""
    sent, marks = 0, {}
    half = deliveries // 2
    while sent < deliveries:
        left = payload.count - sent
        if left <= 0:
            break
        sent += server.wrk(payload, 2, start=sent, count=left)["requests"]
        if sent >= half and half not in marks:
            marks[half] = resident_mb(server.process.pid)
    marks[sent] = resident_mb(server.process.pid)
    return marks


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--binary", required=True)
    p.add_argument("--work", required=True, type=Path)
    p.add_argument("--fixtures", required=True)
    p.add_argument("--seconds", type=int, default=8)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--deliveries", type=int, default=100_000)
    p.add_argument("--quick", action="store_true")
    a = p.parse_args()
    if a.quick:
        a.seconds, a.rounds, a.deliveries = 1, 1, 2_000
    # enough for the memory measurement, whose last round may overshoot, and for a timed round at 15,000 merges a second
    no_merge, merge = payloads(a.fixtures, a.work, max(a.deliveries + 30_000, a.seconds * 15_000))

    rows, number = {}, 0
    for _ in range(a.rounds):
        for name, payload, expected in (("not a merge", no_merge, {200}), ("a new merge each time", merge, {200, 202})):
            for who in ("swanci", "webhook"):
                number += 1
                server = swanci(a.binary, a.work, payload, number) if who == "swanci" else webhook(a.work, number)
                check(server, payload, who, expected)
                result = server.wrk(payload, a.seconds)
                if name != "not a merge" and result["requests"] > payload.count:
                    print(f"note: {who} used up the prepared merges; some were sent twice", file=sys.stderr)
                if result["errors"]:
                    print(f"note: {who}, {name}: {result['errors']} errors", file=sys.stderr)
                result["rss"] = resident_mb(server.process.pid)
                rows.setdefault((name, who), []).append(result)
                server.stop()

    def median(key, field):
        return statistics.median(r[field] for r in rows[key])

    print(f"\n### ack: {no_merge.size} bytes (not a merge) and {merge.size} bytes (merge), {CONNECTIONS} connections, {a.seconds} s, median of {a.rounds}\n")
    print("| delivery | server | requests/s | p50 ms | p99 ms | resident MB | errors | requests/s against webhook |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for (name, who) in rows:
        rate = median((name, who), "rate")
        ratio = rate / median((name, "webhook"), "rate")
        print(f"| {name} | {who} | {rate:,.0f} | {median((name, who), 'p50'):.2f} | {median((name, who), 'p99'):.2f} | "
              f"{median((name, who), 'rss'):.1f} | {sum(r['errors'] for r in rows[(name, who)])} | {ratio:.1f} |")

    body = merge.body(Payload.commit(0))
    started, turns = time.perf_counter(), 5_000
    for _ in range(turns):
        hmac.digest(SECRET.encode(), body, "sha256")
    print(f"\nBaseline: OpenSSL's HMAC-SHA256 of the same payload, one core: "
          f"{turns / (time.perf_counter() - started):,.0f}/s.")

    server = swanci(a.binary, a.work, merge, "memory")
    marks = memory(server, merge, a.deliveries)
    server.stop()
    print("Resident after new merges: " + ", ".join(f"{n:,}: {mb:.1f} MB" for n, mb in marks.items()) + ".")


if __name__ == "__main__":
    main()
