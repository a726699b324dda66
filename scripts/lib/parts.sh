# shellcheck shell=bash
# Parts without a Debian package: the current Docker Engine, buildx, BuildKit, registry 3 and Gitea. Each is built once
# with Go into $TOOLS_DIR/parts/NAME-VERSION, in a pinned version. Sourced after engine.sh and registry.sh.
PARTS=$TOOLS_DIR/parts
PART_GO=1.26
DOCKERD_VERSION=v2.0.0-beta.24
CONTAINERD_VERSION=v2.4.2
RUNC_VERSION=v1.5.2
BUILDX_VERSION=v0.38.2
REGISTRY3_VERSION=v3.1.2
BUILDKIT_VERSION=v0.34.2
GITEA_VERSION=v1.26.0

ENGINE_PART=$PARTS/dockerd-$DOCKERD_VERSION
CONTAINERD_PART=$PARTS/containerd-$CONTAINERD_VERSION
RUNC_PART=$PARTS/runc-$RUNC_VERSION
BUILDX_PART=$PARTS/buildx-$BUILDX_VERSION
REGISTRY3_PART=$PARTS/registry-$REGISTRY3_VERSION
BUILDKIT_PART=$PARTS/buildkitd-$BUILDKIT_VERSION
GITEA_PART=$PARTS/gitea-$GITEA_VERSION

# have_go: whether a Go that can build the parts is installed; $GO_LACK is the reason if not.
have_go() {
    PATH=$PATH:/usr/local/go/bin
    export PATH
    GO_LACK="Go $PART_GO or newer is missing"
    local version
    version=$(go env GOVERSION 2>/dev/null) || return 1
    version=${version#go}
    # shellcheck disable=SC2034 # the caller reads it
    GO_LACK="Go $PART_GO or newer is needed; this is $version"
    [[ $(printf '%s\n' "$PART_GO" "$version" | sort -V | head -n 1) == "$PART_GO" ]]
}

# build_part FOLDER FUNCTION [ARGUMENT...]: runs the function in an empty folder, and renames the folder to FOLDER after
# the function has built and tested the part. A lock serialises parallel scripts.
build_part() {
    local folder=$1 name log work
    shift
    [[ ! -d $folder ]] || return 0
    have_go || return 1
    name=$(basename "$folder")
    mkdir -p "$PARTS"
    log=$PARTS/$name.log
    (
        flock 9
        [[ ! -d $folder ]] || exit 0
        say "  building $name into $PARTS (log: $log)"
        rm -rf "$PARTS/.unfinished-$name"
        work=$PARTS/.unfinished-$name
        mkdir "$work"
        # a condition disables -e, so the function runs in a separate shell
        export -f install_commands build_containerd build_engine build_runc build_buildx build_registry3 build_buildkitd \
            build_gitea
        export CONTAINERD_VERSION DOCKERD_VERSION RUNC_VERSION BUILDX_VERSION REGISTRY3_VERSION BUILDKIT_VERSION GITEA_VERSION
        if ! (cd "$work" && nice -n 10 bash -euc '"$@"' "$name" "$@") >"$log" 2>&1 </dev/null; then
            tail -n 20 "$log" >&2
            say "error: $name could not be built; the lines above are the end of $log"
            exit 1
        fi
        rm -rf "$work/module"
        mv "$work" "$folder"
    ) 9>"$PARTS/.lock"
}

# install_commands TAGS PACKAGE@VERSION...: `go install` into the current folder.
install_commands() {
    local tags=$1
    shift
    GOBIN=$PWD GOFLAGS='' go install -trimpath -tags "$tags" "$@"
}
build_engine() {
    install_commands exclude_graphdriver_btrfs "github.com/moby/moby/v2/cmd/dockerd@$DOCKERD_VERSION" \
        "github.com/moby/moby/v2/cmd/docker-proxy@$DOCKERD_VERSION"
    ./dockerd --version
    ./docker-proxy --version
}
build_containerd() {
    install_commands no_btrfs "github.com/containerd/containerd/v2/cmd/containerd@$CONTAINERD_VERSION" \
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@$CONTAINERD_VERSION"
    ./containerd --version
    ./containerd-shim-runc-v2 -v
}
build_runc() {
    install_commands seccomp "github.com/opencontainers/runc@$RUNC_VERSION"
    ./runc --version
}
build_buildx() {
    install_commands '' "github.com/docker/buildx/cmd/buildx@$BUILDX_VERSION"
    mkdir cli-plugins
    mv buildx cli-plugins/docker-buildx
    cli-plugins/docker-buildx docker-cli-plugin-metadata
    cli-plugins/docker-buildx version
}
build_registry3() {
    install_commands '' "github.com/distribution/distribution/v3/cmd/registry@$REGISTRY3_VERSION"
    ./registry --version
}
# BuildKit and Gitea have replace directives in their go.mod, which `go install` refuses, so each is built as a tool of a
# temporary module.
build_buildkitd() {
    mkdir module
    cd module || exit
    go mod init parts
    go get -tool "github.com/moby/buildkit/cmd/buildkitd@$BUILDKIT_VERSION"
    go build -trimpath -o ../buildkitd github.com/moby/buildkit/cmd/buildkitd
    ../buildkitd --version
}
build_gitea() {
    mkdir module
    cd module || exit
    go mod init parts
    go mod edit -replace github.com/jaytaylor/html2text=github.com/Necoro/html2text@v0.0.0-20250804200300-7bf1ce1c7347 \
        -replace github.com/nektos/act=gitea.com/gitea/act@v0.261.10 \
        -replace github.com/urfave/cli/v3=github.com/urfave/cli/v3@v3.4.1 \
        -replace go.yaml.in/yaml/v4=go.yaml.in/yaml/v4@v4.0.0-rc.3
    go get -tool "code.gitea.io/gitea@$GITEA_VERSION"
    go build -trimpath -tags 'sqlite sqlite_unlock_notify' -o ../gitea code.gitea.io/gitea
    ../gitea --version
    # templates and assets that the program reads at run time
    mkdir ../static
    cp -r "$(go list -m -f '{{.Dir}}' code.gitea.io/gitea)"/{templates,options,public} ../static/
    chmod -R u+w ../static
}

# Builds the parts that a test needs.
ensure_current_engine() {
    if [[ ! -d $RUNC_PART ]] && have_go; then
        # runc links libseccomp
        dpkg -s libseccomp-dev pkg-config >/dev/null 2>&1 || install_packages libseccomp-dev pkg-config gcc libc6-dev
    fi
    build_part "$ENGINE_PART" build_engine && build_part "$CONTAINERD_PART" build_containerd &&
        build_part "$RUNC_PART" build_runc && ensure_buildx_current
}
ensure_buildx_current() { build_part "$BUILDX_PART" build_buildx; }
ensure_registry3() { build_part "$REGISTRY3_PART" build_registry3; }
ensure_buildkitd() { build_part "$BUILDKIT_PART" build_buildkitd; }
ensure_gitea() { build_part "$GITEA_PART" build_gitea; }

# --- start and stop -----------------------------------------------------------------------------------------------------
# current_engine_start DIR: starts the current engine, with its image store in containerd, until the script ends. It runs
# in a separate network namespace, because a second daemon would take over the first one's bridge. Sets CURRENT_ENGINE_HOST
# (for DOCKER_HOST) and CURRENT_ENGINE (the command that enters the namespace; programs that use a test registry on
# loopback must run in it too).
current_engine_start() {
    local dir=$1 namespace=swanci-engine-$$
    ensure_tools ip iptables nsenter
    mount_cgroups
    # apt in the tests' images needs the network
    if ! netns_make "$namespace" || ! netns_connect "$namespace"; then
        die "this machine cannot make a network namespace" "it needs root and CAP_NET_ADMIN"
    fi
    # not `ip netns exec`: it mounts another /sys, without the cgroups
    CURRENT_ENGINE=(nsenter "--net=/var/run/netns/$namespace" --)
    CURRENT_ENGINE_HOST=unix://$dir/docker.sock
    mkdir -p "$dir"
    cat >"$dir/containerd.toml" <<TOML
version = 3
root = "$dir/containerd"
state = "$dir/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
[plugins."io.containerd.server.v1.grpc"]
address = "$dir/containerd.sock"
[plugins."io.containerd.server.v1.ttrpc"]
address = "$dir/containerd.sock.ttrpc"
TOML
    echo '{}' >"$dir/daemon.json"
    local path=$RUNC_PART:$CONTAINERD_PART:$ENGINE_PART:$PATH
    part_start "$dir/containerd.log" "${CURRENT_ENGINE[@]}" env "PATH=$path" containerd --config "$dir/containerd.toml"
    wait_for 30 test -S "$dir/containerd.sock" || part_failed containerd "$dir/containerd.log"
    part_start "$dir/dockerd.log" "${CURRENT_ENGINE[@]}" env "PATH=$path" dockerd --containerd "$dir/containerd.sock" \
        --host "$CURRENT_ENGINE_HOST" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/dockerd.pid" \
        --config-file "$dir/daemon.json"
    wait_for 60 docker -H "$CURRENT_ENGINE_HOST" version || part_failed dockerd "$dir/dockerd.log"
}
# part_start LOG COMMAND...: runs the command in the background, in a separate session, until the script ends.
part_start() {
    local log=$1
    shift
    setsid "$@" >"$log" 2>&1 </dev/null &
    PART_PID=$!
    disown "$PART_PID"
    on_exit stop_pid "$PART_PID" 30
}
part_failed() {
    tail -n 20 "$2" >&2
    die "$1 did not become ready" "the lines above are the end of its log"
}

# current_config DIR: makes a DOCKER_CONFIG folder with only the current buildx.
current_config() {
    mkdir -p "$1"
    echo '{}' >"$1/config.json"
    ln -sfn "$BUILDX_PART/cli-plugins" "$1/cli-plugins"
}

# buildkitd_start DIR NAME COMMAND...: starts BuildKit as a remote builder on loopback, run by COMMAND (env, or a command
# that enters a namespace). The builder is NAME in the BUILDX_CONFIG folder DIR/buildx.
buildkitd_start() {
    local dir=$1 name=$2 port
    shift 2
    port=$(free_port)
    mkdir -p "$dir"
    # ignore the machine's configuration of BuildKit
    : >"$dir/buildkitd.toml"
    part_start "$dir/buildkitd.log" "$@" env "PATH=$RUNC_PART:$PATH" "$BUILDKIT_PART/buildkitd" --root "$dir/root" \
        --config "$dir/buildkitd.toml" --addr "tcp://127.0.0.1:$port" --oci-worker-net host --containerd-worker=false
    BUILDX_CONFIG=$dir/buildx "$BUILDX_PART/cli-plugins/docker-buildx" create --name "$name" --driver remote \
        "tcp://127.0.0.1:$port" >/dev/null
    # shellcheck disable=SC2317 # wait_for calls it
    answers() { BUILDX_CONFIG=$dir/buildx "$@" "$BUILDX_PART/cli-plugins/docker-buildx" inspect --bootstrap "$name"; }
    wait_for 30 answers "$@" || part_failed buildkitd "$dir/buildkitd.log"
}

# gitea_start DIR COMMAND...: starts Gitea with its registry on loopback, run by COMMAND. Sets GITEA_URL, GITEA_USER (an
# administrator) and GITEA_TOKEN.
gitea_start() {
    local dir=$1 port
    shift
    port=$(free_port)
    GITEA_URL=http://127.0.0.1:$port GITEA_USER=ci
    mkdir -p "$dir/home"
    cat >"$dir/app.ini" <<INI
WORK_PATH = $dir
RUN_MODE = prod
RUN_USER = $(id -un)
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true
[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = $port
ROOT_URL = $GITEA_URL/
STATIC_ROOT_PATH = $GITEA_PART/static
OFFLINE_MODE = true
DISABLE_SSH = true
[database]
DB_TYPE = sqlite3
[security]
INSTALL_LOCK = true
SECRET_KEY = $(openssl rand -hex 32)
[oauth2]
JWT_SECRET = $(openssl rand -base64 32 | tr '+/' '-_' | tr -d '=')
[webhook]
ALLOWED_HOST_LIST = loopback
[log]
LEVEL = Warn
INI
    local -a gitea=("$@" env "HOME=$dir/home" "$GITEA_PART/gitea" --config "$dir/app.ini")
    "${gitea[@]}" migrate >"$dir/migrate.log" 2>&1 || part_failed "gitea migrate" "$dir/migrate.log"
    "${gitea[@]}" admin user create --admin --username "$GITEA_USER" --random-password --email ci@swan.test \
        --must-change-password=false >"$dir/user.log" 2>&1 || part_failed "gitea admin user create" "$dir/user.log"
    # the last line: a warning about root precedes it
    # shellcheck disable=SC2034 # the caller reads it
    GITEA_TOKEN=$("${gitea[@]}" admin user generate-access-token --username "$GITEA_USER" --scopes all --raw \
        2>"$dir/token.log" | tail -n 1) || part_failed "gitea admin user generate-access-token" "$dir/token.log"
    part_start "$dir/gitea.log" "${gitea[@]}" web
    # shellcheck disable=SC2317 # wait_for calls it
    answers() { "$@" curl -fsS --noproxy '*' -o /dev/null "$GITEA_URL/api/v1/version"; }
    wait_for 60 answers "$@" || part_failed gitea "$dir/gitea.log"
}
