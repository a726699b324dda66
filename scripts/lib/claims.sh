# shellcheck shell=bash
# Tests as a list of claims: a sentence, and the command that checks it. The first claim that fails prints the command's
# output and ends the script with code 1. Sourced after common.sh.

# claims_into FILE: sets the file for the output of the commands.
claims_into() {
    CLAIM_OUTPUT=$1
    : >"$CLAIM_OUTPUT"
}
held() { printf 'ok   %s\n' "$1"; }
broken() {
    printf 'FAIL %s\n' "$1"
    [[ ! -s $CLAIM_OUTPUT ]] || tail -n 60 "$CLAIM_OUTPUT" | sed 's/^/     /'
    exit 1
}
# claim TEXT COMMAND...: the command succeeds.
claim() {
    local text=$1
    shift
    if "$@" >"$CLAIM_OUTPUT" 2>&1; then held "$text"; else broken "$text"; fi
}
# refused TEXT PATTERN COMMAND...: the command fails, and its output matches the pattern.
refused() {
    local text=$1 pattern=$2
    shift 2
    if "$@" >"$CLAIM_OUTPUT" 2>&1; then broken "$text (it succeeded)"; fi
    if grep -qE "$pattern" "$CLAIM_OUTPUT"; then held "$text"; else broken "$text (for another reason)"; fi
}
