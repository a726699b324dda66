# shellcheck shell=bash
# Shared by all scripts: output, a stack of clean-up steps, and waiting with a time limit. Sourced, not run.

# No name begins with SWANCI_: swanci warns about unknown variables with this prefix.
REPO_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
TOOLS_DIR=${TOOLS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/swanci-tools}
export REPO_ROOT TOOLS_DIR

# Removes swanci's settings of the user from the environment; a script sets its own.
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

# Prints the comment block at the top of the script as the text of --help.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

need_root() { [[ $EUID -eq 0 ]] || die "$(basename "$0") must run as root" "try: sudo $0"; }

# Clean-up steps run in reverse order, however the script ends.
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

# wait_for SECONDS COMMAND...: repeats the command until it succeeds; returns 1 after the time limit.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.2
    done
}

# stop_pid PID [SECONDS]: sends TERM, then KILL after the time limit; only for processes that this script started.
stop_pid() {
    local pid=$1 end=$((SECONDS + ${2:-10}))
    kill -TERM "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do
        ((SECONDS < end)) || { kill -KILL "$pid" 2>/dev/null; break; }
        sleep 0.1
    done
    wait "$pid" 2>/dev/null || true
}

# free_port: prints a free TCP port of 127.0.0.1.
free_port() {
    local port
    for _ in {1..50}; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
    die "no free port found on 127.0.0.1"
}

# Prints the folder of recorded payloads next to the project, if it exists (a worktree is one level deeper).
find_fixtures() {
    local folder
    for folder in "${SWANCI_FIXTURES:-}" "$REPO_ROOT/../shared/fixtures" "$REPO_ROOT/../../shared/fixtures"; do
        if [[ -n $folder && -r $folder/index.csv ]]; then
            (cd "$folder" && pwd)
            return
        fi
    done
}
