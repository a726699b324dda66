"""One merge end to end: swanci against a script, bake, and a baseline; called by scripts/bench merge."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

NAME = "bench/repository"
BRANCH = "develop"


class Repository:
    """A bare repository, written with `git fast-import`: images in folders and, for the big one, many other files."""

    def __init__(self, path, images, files, other_files=0, other_commits=0, seed=""):
        self.path, self.images, self.files, self.seed = path, images, files, seed
        self.number, self.mark = 0, 0
        subprocess.run(["git", "init", "-q", "--bare", "-b", BRANCH, str(path)], check=True)
        listing = {"images": [{"service_name": self.image(i), "version": "1.0", "type": "Docker"} for i in range(images)]}
        changes = {"images.json": json.dumps(listing)}
        for i in range(images):
            changes[f"{self.image(i)}/Dockerfile"] = "FROM scratch\nCOPY . /\n"
            for j in range(files):
                changes[f"{self.image(i)}/d{j % 10}/f{j}.txt"] = f"{seed} {i} {j}\n" * 40
        for j in range(other_files):
            changes[f"other/{j % 300}/{j}.txt"] = f"{seed} {j}\n"
        self.stream = []
        self.commit(changes)
        for k in range(other_commits):
            self.commit({f"history/{k % 50}.txt": f"{k}\n"})
        self.write()

    @staticmethod
    def image(i):
        return f"image-{i:03}"

    def commit(self, changes, merge=False):
        """Queues a commit; the second parent of a merge is a side branch, like on a forge."""
        parent = f":{self.mark}" if self.mark else None
        if merge:
            self._entry(f"refs/heads/topic-{self.number}", parent, None, changes)
            self._entry(f"refs/heads/{BRANCH}", parent, f":{self.mark}", changes)
        else:
            self._entry(f"refs/heads/{BRANCH}", parent, None, changes)
        self.number += 1

    def _entry(self, ref, parent, second, changes):
        self.mark += 1
        text = f"change {self.number}"
        when = 1_700_000_000 + self.mark
        self.stream.append(f"commit {ref}\nmark :{self.mark}\ncommitter Bench <bench@swan.test> {when} +0000\n"
                           f"data {len(text)}\n{text}\n")
        if parent:
            self.stream.append(f"from {parent}\n")
        if second:
            self.stream.append(f"merge {second}\n")
        for name, content in changes.items():
            self.stream.append(f"M 100644 inline {name}\ndata {len(content.encode())}\n{content}\n")

    def write(self):
        marks = self.path / "bench-marks"
        command = ["git", "-C", str(self.path), "fast-import", "--quiet", "--force", f"--export-marks={marks}"]
        if marks.exists():
            command.append(f"--import-marks={marks}")
        subprocess.run(command, input="".join(self.stream).encode(), check=True)
        self.stream = []

    def merge(self, changed):
        """Merges a change of these images (if none: of another file) and returns the merge commit."""
        self.changed = getattr(self, "changed", 0) + 1
        text = f"{self.seed} change {self.changed}\n"
        names = [f"{self.image(i)}/d0/f0.txt" for i in changed] or ["README.md"]
        self.commit({n: text for n in names}, merge=True)
        self.write()
        return self.head()

    def head(self):
        out = subprocess.run(["git", "-C", str(self.path), "rev-parse", BRANCH], check=True, capture_output=True, text=True)
        return out.stdout.strip()


def payload(commit, number):
    repo = {"id": 1, "name": NAME.split("/")[1], "full_name": NAME, "default_branch": BRANCH,
            "clone_url": f"https://github.com/{NAME}.git", "owner": {"login": "bench", "id": 1}}
    user = {"login": "bench", "id": 1}
    return json.dumps({"action": "closed", "number": number, "repository": repo, "sender": user, "pull_request": {
        "number": number, "title": "change", "state": "closed", "merged": True, "merge_commit_sha": commit, "user": user,
        "html_url": f"https://github.com/{NAME}/pull/{number}",
        "head": {"ref": "topic", "sha": commit, "repo": repo}, "base": {"ref": BRANCH, "sha": commit, "repo": repo}}})


def timed(command, env, cwd=None):
    started = time.perf_counter()
    result = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{command}: code {result.returncode}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}")
    return time.perf_counter() - started, result.stdout


class Bench:
    def __init__(self, a):
        self.a, self.count = a, 0
        # a client before 23 needs it, even with the plugin
        self.env = dict(os.environ, DOCKER_CONFIG=a.docker_config, DOCKER_BUILDKIT="1")

    def folder(self, name):
        """A new folder. It is deleted only at the end: for minutes after a deletion, ext4 skips the deleted inodes when it
        creates a file, which would slow down the next case."""
        self.count += 1
        path = self.a.work / f"{name}-{self.count}"
        path.mkdir()
        return path

    def swanci(self, repository, commit, home):
        """One `swanci run` with its state in home; a second run with the same home is warm."""
        config = home / "swanci.toml"
        config.write_text(f'state_dir = "state"\n[registry]\nhost = "{self.a.registry}/swanci-{home.name}"\n'
                          f'plain_http = true\n[build]\njobs = 2\n[[repository]]\nname = "{NAME}"\n'
                          f'branches = ["{BRANCH}"]\nclone_url = "{repository.path}"\n')
        (home / "payload.json").write_text(payload(commit, repository.number))
        seconds, out = timed([self.a.binary, "--config", str(config), "run", str(home / "payload.json")], self.env)
        receipt = json.loads(out)
        if receipt.get("outcome") != "succeeded" or receipt["change"]["commit"] != commit:
            sys.exit(f"swanci run did not succeed: {out[:2000]}")
        return seconds

    CLONE = 'git clone -q --depth 1 --branch "$BRANCH" "file://$REPOSITORY" "$CLONE"\n'
    SCRIPT = """set -e
""" + CLONE + """for image in $(python3 -c 'import json,sys; [print(i["service_name"]) for i in json.load(open(sys.argv[1]))["images"]]' \
    "$CLONE/images.json"); do
    docker build -q --label "org.opencontainers.image.revision=$COMMIT" -t "$PREFIX/$image:1.0" "$CLONE/$image"
    docker push -q "$PREFIX/$image:1.0"
done
rm -rf "$CLONE"
"""
    BAKE = """set -e
""" + CLONE + """cd "$CLONE"
python3 - "$COMMIT" "$PREFIX" <<'PYTHON' >bake.json
import json, sys
names = [i["service_name"] for i in json.load(open("images.json"))["images"]]
print(json.dumps({"group": {"default": {"targets": names}}, "target": {n: {
    "context": n, "tags": [f"{sys.argv[2]}/{n}:1.0"], "labels": {"org.opencontainers.image.revision": sys.argv[1]},
} for n in names}}))
PYTHON
docker buildx bake --push --progress quiet -f bake.json
rm -rf "$CLONE"
"""

    def script(self, repository, commit, home, what=SCRIPT):
        """Clones, then builds and pushes each image, with its commit as a label."""
        env = dict(self.env, BRANCH=BRANCH, REPOSITORY=str(repository.path), CLONE=str(home / "clone"), COMMIT=commit,
                   PREFIX=f"{self.a.registry}/{home.name}")
        return timed(["bash", "-c", what], env)[0]

    def bake(self, repository, commit, home):
        """The same with one `docker buildx bake --push`, which builds and pushes the images in parallel."""
        return self.script(repository, commit, home, self.BAKE)

    BASELINE = """set -e
git -C "$CLONE" fetch -q origin "$BRANCH"
git -C "$CLONE" reset -q --hard FETCH_HEAD
if [ -n "$REQUESTS" ]; then
    for step in look tag again; do curl -sS -Z --parallel-max 8 -K "$REQUESTS/$step"; done &
fi
docker build -q -t "$PREFIX/$IMAGE:1.0" "$CLONE/$IMAGE"
docker push -q "$PREFIX/$IMAGE:1.0"
wait $!
"""

    def baseline(self, repository, home, requests=""):
        """Only the necessary work: fetch, one build, one push; no proof of merge, no tags, no other images."""
        clone = home / "baseline"
        if not clone.exists():
            subprocess.run(["git", "clone", "-q", str(repository.path), str(clone)], check=True)
        env = dict(self.env, BRANCH=BRANCH, CLONE=str(clone), IMAGE=repository.image(0),
                   PREFIX=f"{self.a.registry}/baseline-{home.name}", REQUESTS=str(requests))
        return timed(["bash", "-c", self.BASELINE], env)

    MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

    def baseline_and_requests(self, repository, commit, home):
        """The baseline, while curl sends the minimum of requests for each unchanged image: it reads the commit's own tag and
        the moving tag, writes the manifest under the own tag, and reads the moving tag again. No proof, no comparison."""
        url = f"http://{self.a.registry}/v2/swanci-{home.name}"
        unchanged = [repository.image(i) for i in range(1, repository.images)]
        requests = home / "requests"
        if not requests.exists():
            seconds = self.swanci(repository, commit, home)
            requests.mkdir()
            for image in unchanged:
                ask = urllib.request.Request(f"{url}/{image}/manifests/1.0", headers={"Accept": self.MANIFEST})
                (requests / image).write_bytes(urllib.request.urlopen(ask).read())
            self.baseline(repository, home)
            return seconds

        def write(step, tags, more):
            entries = [f'url = "{url}/{image}/manifests/{tag}"\noutput = "/dev/null"\nwrite-out = "%{{http_code}} "\n'
                       + more.format(requests / image) for image in unchanged for tag in tags]
            (requests / step).write_text("next\n".join(entries))

        own, accept = f"sha-{commit}", f'header = "Accept: {self.MANIFEST}"\n'
        write("look", [own, "1.0"], accept)
        write("tag", [own], f'header = "Content-Type: {self.MANIFEST}"\nupload-file = "{{}}"\n')
        write("again", ["1.0"], accept)
        seconds, out = self.baseline(repository, home, requests)
        codes = [word for word in out.split() if len(word) == 3]
        count = {code: codes.count(code) for code in ("404", "200", "201")}
        if count != {"404": len(unchanged), "200": 2 * len(unchanged), "201": len(unchanged)}:
            sys.exit(f"unexpected answers of the registry: {count} of {len(codes)}")
        return seconds

    def warm(self, name, images, changed, contenders, **sizes):
        """Medians over runs: each run is a new merge for every contender, in turn. Each contender has a separate repository
        with the same structure and other content, so that it does not use the build cache of another."""
        base = self.folder(name)
        homes = {who: base / f"{base.name}-{who}" for who in contenders}
        times = {who: [] for who in contenders}
        repositories = {}
        for who, home in homes.items():
            home.mkdir()
            seed = f"{base.name} {who} {os.getpid()}"
            repositories[who] = Repository(base / f"{who}.git", images, self.a.files, seed=seed, **sizes)
        for run in range(-1, self.a.runs):
            order = list(contenders)
            if run % 2:
                order.reverse()
            for who in order:
                home, repository = homes[who], repositories[who]
                # the first run is not counted: it fills mirror, registry and build cache
                commit = repository.head() if run < 0 else repository.merge(changed)
                seconds = {"swanci": lambda: self.swanci(repository, commit, home),
                           "script": lambda: self.script(repository, commit, home),
                           "bake": lambda: self.bake(repository, commit, home),
                           "baseline": lambda: self.baseline(repository, home)[0],
                           "requests": lambda: self.baseline_and_requests(repository, commit, home)}[who]()
                if run >= 0:
                    times[who].append(seconds)
        return {who: statistics.median(t) for who, t in times.items()}

    def cold(self, images):
        """Medians with empty caches: no mirror, no image in the registry, no layer in the build cache."""
        contenders = {"swanci": self.swanci, "script": self.script, "bake": self.bake}
        times = {who: [] for who in contenders}
        for run in range(self.a.runs):
            for who in sorted(contenders, reverse=run % 2):
                base = self.folder(f"cold-{who}")
                repository = Repository(base / "repository.git", images, self.a.files, seed=f"{base.name} {os.getpid()}")
                times[who].append(contenders[who](repository, repository.head(), base))
        return {who: statistics.median(t) for who, t in times.items()}


def image_ids():
    """All images of the engine, including those without a name."""
    return set(subprocess.run(["docker", "images", "-q", "--no-trunc"], capture_output=True, text=True).stdout.split())


def cell(number):
    return "" if number is None else f"{number:.2f}"


def main():
    p = argparse.ArgumentParser()
    for name in ("--binary", "--registry", "--docker-config"):
        p.add_argument(name, required=True)
    p.add_argument("--work", required=True, type=Path)
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--cases", default="small,big,nothing,one,cold,many")
    p.add_argument("--quick", action="store_true")
    a = p.parse_args()
    few, many, a.files, big_files, big_commits = 20, 200, 200, 100_000, 20_000
    if a.quick:
        a.runs, few, many, a.files, big_files, big_commits = 1, 3, 6, 20, 1_000, 200
    cases = a.cases.split(",")
    os.environ["GIT_CONFIG_NOSYSTEM"] = "1"
    os.environ["GIT_CONFIG_GLOBAL"] = os.devnull
    b, rows = Bench(a), []

    def row(case, mine, other, against, target=None):
        ratio = mine / other
        verdict = "" if a.quick or target is None else ("yes" if ratio <= target else "NO")
        rows.append((case, cell(mine), f"{cell(other)} ({against})", f"{ratio:.2f}", cell(target), verdict))
        print(f"  {case}: {mine:.2f} s against {other:.2f} s ({against})", file=sys.stderr)

    before = image_ids()
    try:
        # Ordered by the number of images that they leave, because images slow the engine down.
        if "small" in cases:
            t = b.warm("small", 1, [0], ("swanci", "script", "bake"))
            row("one small image, one file changed, warm", t["swanci"], t["script"], "script", 1.1)
            row("one small image, one file changed, warm", t["swanci"], t["bake"], "bake")
        if "big" in cases:
            small = b.warm("plain", 1, [0], ("swanci",))
            big = b.warm("big", 1, [0], ("swanci",), other_files=big_files, other_commits=big_commits)
            row(f"{big_files:,} files and {big_commits:,} commits, one image changed", big["swanci"], small["swanci"],
                "small repository", 1.3)
        if "nothing" in cases:
            t = b.warm("nothing", few, [], ("swanci", "script", "bake"))
            row(f"{few} images, nothing changed", t["swanci"], t["script"], "script", 1 / 15)
            row(f"{few} images, nothing changed", t["swanci"], t["bake"], "bake")
        if "one" in cases:
            t = b.warm("one", few, [0], ("swanci", "script", "bake", "baseline"))
            row(f"{few} images, one changed", t["swanci"], t["script"], "script", 1 / 6)
            row(f"{few} images, one changed", t["swanci"], t["bake"], "bake")
            row(f"{few} images, one changed", t["swanci"], t["baseline"], "baseline", 1.5)
        if "cold" in cases:
            t = b.cold(few)
            row(f"{few} images, cold", t["swanci"], t["script"], "script", 0.8)
            row(f"{few} images, cold", t["swanci"], t["bake"], "bake")
        if "many" in cases:
            t = b.warm("many", many, [0], ("swanci", "requests"))
            row(f"{many} images, one changed", t["swanci"], t["requests"], "baseline and requests", 1.2)

        print(f"\n### merge: {a.files} files an image, median of {a.runs}\n")
        print("| case | swanci s | against s | ratio | target | met |")
        print("|---|--:|--:|--:|--:|---|")
        above = None
        for case, *cells in rows:
            print("| " + " | ".join(["" if case == above else case, *cells]) + " |")
            above = case
    finally:
        # by id, because an image whose tag has moved has no name
        made = sorted(image_ids() - before)
        for i in range(0, len(made), 100):
            subprocess.run(["docker", "rmi", "-f", *made[i:i + 100]], capture_output=True)


if __name__ == "__main__":
    main()
