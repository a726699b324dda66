# shellcheck shell=bash
# A sample repository like the one of the original exam: branch `develop`, images.json, and the images httpd and postgresql,
# each in its folder. Both are FROM scratch with busybox, so no other registry is needed. Sourced after common.sh.

SAMPLE_NAME=juanswan13/sd2018b-exam2

# git with a fixed author, and without the configuration of the user and the system
sample_git() {
    GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME='Juan Swan' GIT_AUTHOR_EMAIL=juan@swan.test \
        GIT_COMMITTER_NAME='Juan Swan' GIT_COMMITTER_EMAIL=juan@swan.test git -C "$1" "${@:2}"
}

# sample_make DIR: creates DIR/work (a working copy on develop) and DIR/repository.git (which swanci clones).
sample_make() {
    local work=$1/work
    mkdir -p "$work"
    sample_git "$work" init -q -b master
    echo '# sd2018b-exam2' >"$work/README.md"
    sample_git "$work" add -A
    sample_git "$work" commit -qm 'Begin'
    sample_git "$work" branch develop
    git clone -q --bare "$work" "$1/repository.git"
    sample_git "$work" remote add origin "$1/repository.git"
    sample_git "$work" switch -q develop
}

# Adds the two services of the pull request.
sample_services() {
    local work=$1 service
    for service in httpd postgresql; do
        mkdir -p "$work/$service"
        cp "$(command -v busybox)" "$work/$service/busybox"
    done
    cat >"$work/images.json" <<'JSON'
{"images":[
  {"service_name":"httpd","version":"1.0","type":"Docker"},
  {"service_name":"postgresql","version":"9.6","type":"Docker"}
]}
JSON
    echo '<h1>sd2018b-exam2, first edition</h1>' >"$work/httpd/index.html"
    cat >"$work/httpd/Dockerfile" <<'DOCKERFILE'
FROM scratch
COPY busybox /bin/busybox
COPY index.html /www/index.html
EXPOSE 80
ENTRYPOINT ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"]
DOCKERFILE
    cat >"$work/postgresql/Dockerfile" <<'DOCKERFILE'
# a stand-in: the real image would come from Docker Hub
FROM scratch
COPY busybox /bin/busybox
EXPOSE 5432
ENTRYPOINT ["/bin/busybox", "nc", "-ll", "-p", "5432", "-e", "/bin/busybox", "echo", "stand-in for postgresql"]
DOCKERFILE
}

# sample_merge DIR NUMBER BRANCH TITLE: commits the changes on BRANCH, merges it into develop with a merge commit, pushes,
# and writes the payload of the merge to DIR/payload-NUMBER.json.
sample_merge() {
    local dir=$1 number=$2 branch=$3 title=$4 work=$1/work base head merge
    base=$(sample_git "$work" rev-parse develop)
    sample_git "$work" switch -qc "$branch"
    sample_git "$work" add -A
    sample_git "$work" commit -qm "$title"
    head=$(sample_git "$work" rev-parse HEAD)
    sample_git "$work" switch -q develop
    sample_git "$work" merge -q --no-ff -m "Merge pull request #$number from ${SAMPLE_NAME%/*}/$branch" "$branch"
    merge=$(sample_git "$work" rev-parse HEAD)
    sample_git "$work" push -q origin develop "$branch"
    jq -n --arg name "$SAMPLE_NAME" --argjson number "$number" --arg title "$title" --arg branch "$branch" \
        --arg base "$base" --arg head "$head" --arg merge "$merge" \
        -f "$REPO_ROOT/scripts/lib/pull-request.jq" >"$dir/payload-$number.json"
}
