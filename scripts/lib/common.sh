# shellcheck shell=bash
# What every script here shares: plain output, a stack of clean-up steps, and waiting with a bound. Sourced, not run.

# No name here begins with SWANCI_: that is swanci's own configuration, and it warns about words that it doesn't know.
REPO_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
TOOLS_DIR=${TOOLS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/swanci-tools}
export REPO_ROOT TOOLS_DIR

# What a person may have set for swanci must not reach the programs that a script starts; a script names its own.
forget_own_settings() {
    local name
    for name in "${!SWANCI_@}"; do unset "$name"; done
}

say() { printf '%s\n' "$*" >&2; }
die() {
    say "error: $1"
    [[ -z ${2:-} ]] || say "hint: $2"
    exit "${3:-1}"
}

# Prints the comment block at the top of the script: one text serves reader and --help.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

need_root() { [[ $EUID -eq 0 ]] || die "$(basename "$0") must run as root" "try: sudo $0"; }

# Clean-up steps run in reverse order, whatever way the script ends.
declare -a EXIT_STEPS=()
on_exit() { EXIT_STEPS+=("$(printf '%q ' "$@")"); }
run_exit_steps() {
    local code=$? i
    trap '' INT TERM
    set +e
    for ((i = ${#EXIT_STEPS[@]} - 1; i >= 0; i--)); do eval "${EXIT_STEPS[i]}" >/dev/null 2>&1; done
    EXIT_STEPS=()
    exit "$code"
}
trap run_exit_steps EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# wait_for SECONDS COMMAND...: until the command succeeds; 1 when the time is over.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.2
    done
}

# stop_pid PID [SECONDS]: TERM, then KILL after the bound; only for processes that this script started.
stop_pid() {
    local pid=$1 end=$((SECONDS + ${2:-10}))
    kill -TERM "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do
        ((SECONDS < end)) || { kill -KILL "$pid" 2>/dev/null; break; }
        sleep 0.1
    done
    wait "$pid" 2>/dev/null || true
}

# free_port: a TCP port of 127.0.0.1 that nobody listens on right now.
free_port() {
    local port
    for _ in {1..50}; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
    die "no free port found on 127.0.0.1"
}

# The folder of recorded payloads beside the project, where there is one (a worktree stands one deeper).
find_fixtures() {
    local folder
    for folder in "${SWANCI_FIXTURES:-}" "$REPO_ROOT/../shared/fixtures" "$REPO_ROOT/../../shared/fixtures"; do
        if [[ -n $folder && -r $folder/index.csv ]]; then
            (cd "$folder" && pwd)
            return
        fi
    done
}
