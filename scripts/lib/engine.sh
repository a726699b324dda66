# shellcheck shell=bash
# Tools, the docker engine and client, buildx and compose: installs or starts what is missing. Debian or Ubuntu, as root. Sourced after common.sh.

# The package of a command.
package_of() {
    case $1 in
    docker) if debian_has_docker_cli; then echo docker-cli; else echo docker.io; fi ;;
    dockerd) echo docker.io ;;
    iptables) echo iptables ;;
    docker-registry) echo docker-registry ;;
    busybox) echo busybox-static ;;
    htpasswd) echo apache2-utils ;;
    ip) echo iproute2 ;;
    systemd-analyze) echo systemd ;;
    xz) echo xz-utils ;;
    ssh | ssh-keygen) echo openssh-client ;;
    sshd) echo openssh-server ;;
    strip) echo binutils ;;
    *) echo "$1" ;;
    esac
}

# From Debian 13 on, the client is a separate package.
debian_has_docker_cli() { (. /etc/os-release && [[ $ID == debian ]] && ((${VERSION_ID:-99} >= 13))); }

# Installs packages without starting their services. Runs `apt-get update` only if the first attempt fails.
install_packages() {
    [[ $EUID -eq 0 ]] || die "missing: $*" "install them, or run this script as root: sudo apt-get install $*"
    command -v apt-get >/dev/null || die "missing: $*, and apt-get is missing" "install them by hand"
    say "  installing $*"
    local log policy=/usr/sbin/policy-rc.d own_policy='' code=0
    log=$(mktemp)
    if [[ ! -e $policy ]]; then
        own_policy=1
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    local -a apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=120)
    "${apt[@]}" install --no-install-recommends "$@" >"$log" 2>&1 </dev/null || {
        "${apt[@]}" update >>"$log" 2>&1 </dev/null || true
        "${apt[@]}" install --no-install-recommends "$@" >>"$log" 2>&1 </dev/null || code=$?
    }
    [[ -z $own_policy ]] || rm -f "$policy"
    if ((code)); then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "apt-get could not install: $*"
    fi
    rm -f "$log"
}

# ensure_tools COMMAND...: installs the packages of missing commands.
ensure_tools() {
    # dockerd, iptables and ip are in sbin, which may not be on the PATH
    PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
    export PATH
    local command package
    local -A packages=()
    for command in "$@"; do
        command -v "$command" >/dev/null && continue
        package=$(package_of "$command")
        packages[$package]=1
    done
    # Debian's package busybox is not static, so an image FROM scratch cannot run it
    if [[ " $* " == *' busybox '* ]] && ! busybox_is_static; then packages[busybox-static]=1; fi
    ((${#packages[@]} == 0)) || install_packages "${!packages[@]}"
    for command in "$@"; do
        command -v "$command" >/dev/null || die "$command is still missing after installing $(package_of "$command")"
    done
}

busybox_is_static() {
    local path
    path=$(command -v busybox) || return 1
    ! ldd "$path" >/dev/null 2>&1
}

engine_answers() { timeout 20 docker info >/dev/null 2>&1; }

# ensure_engine: starts a docker engine if none answers. The engine ends with the script, unless KEEP_ENGINE=1.
ensure_engine() {
    ensure_tools docker
    if engine_answers; then return; fi
    [[ -z ${DOCKER_HOST:-} ]] || die "no docker engine answers at DOCKER_HOST=$DOCKER_HOST" "start it, or unset DOCKER_HOST"
    ensure_tools dockerd iptables
    need_root
    mount_cgroups
    local log pid
    log=$(mktemp /tmp/swanci-dockerd.XXXXXX)
    say "  starting dockerd (log: $log)"
    # in a separate session: Ctrl-C must not stop the engine before the clean-up runs
    setsid dockerd >"$log" 2>&1 </dev/null &
    pid=$!
    disown "$pid"
    if [[ ${KEEP_ENGINE:-} != 1 ]]; then
        on_exit rm -f "$log"
        on_exit stop_pid "$pid" 30
    fi
    local end=$((SECONDS + 60))
    until engine_answers; do
        if ! kill -0 "$pid" 2>/dev/null || ((SECONDS >= end)); then
            tail -n 20 "$log" >&2
            die "dockerd did not become ready within 60 s" "the lines above are the end of its log"
        fi
        sleep 0.3
    done
}

# dockerd needs cgroups to run containers; a machine without an init system does not mount them.
mount_cgroups() {
    if mountpoint -q /sys/fs/cgroup || ! command -v mountpoint >/dev/null; then return 0; fi
    mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null || say "  note: /sys/fs/cgroup could not be mounted"
}

# debian_mirror: prints the Debian mirror in apt's configuration, or DEBIAN_MIRROR.
debian_mirror() {
    local mirror=${DEBIAN_MIRROR:-} codename list
    codename=$(. /etc/os-release && [[ $ID == debian ]] && echo "$VERSION_CODENAME") || codename=trixie
    # shellcheck disable=SC2016 # apt-get expands the format
    [[ -n $mirror ]] || mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v release="$codename" '$2 == release && $3 == "main" { print $1; exit }')
    # a list of mirrors, as in Debian's cloud images
    list=${mirror#mirror+file:}
    [[ $list == "$mirror" ]] || mirror=$(awk '!/^#/ && NF { print $1; exit }' "$list")
    [[ -n $mirror ]] || die "apt on this machine has no mirror of Debian" "set DEBIAN_MIRROR=URL"
    printf '%s\n' "${mirror%/}"
}

# fetch_from_trixie PACKAGE FILE TO: copies the file with this path suffix from Debian trixie's package to TO. buildx,
# compose and the docker client need only libc, so they also run on older systems. The machine's apt sources and lists do
# not change.
fetch_from_trixie() {
    local package=$1 file=$2 to=$3 keyring=/usr/share/keyrings/debian-archive-keyring.gpg work=$TOOLS_DIR/apt mirror found
    [[ -r $keyring ]] || install_packages debian-archive-keyring
    mirror=$(debian_mirror)
    say "  fetching $package from Debian trixie into $TOOLS_DIR"
    rm -rf "$work/tree" "$work/debs"
    mkdir -p "$work"/{lists/partial,cache/archives/partial,parts,debs}
    echo "deb [signed-by=$keyring] $mirror trixie main" >"$work/sources.list"
    : >"$work/status"
    local -a apt=(-q -o "Dir::Etc::sourcelist=$work/sources.list" -o "Dir::Etc::sourceparts=$work/parts"
        -o "Dir::State::lists=$work/lists" -o "Dir::State::status=$work/status" -o "Dir::Cache=$work/cache"
        -o APT::Sandbox::User=root -o Acquire::Languages=none -o APT::Default-Release=)
    if ! (apt-get "${apt[@]}" update && cd "$work/debs" && apt-get "${apt[@]}" download "$package") \
        >"$work/log" 2>&1 </dev/null; then
        tail -n 10 "$work/log" >&2
        die "cannot fetch $package from $mirror"
    fi
    dpkg-deb -x "$work/debs/${package}"_*.deb "$work/tree"
    found=$(find "$work/tree" -path "*/$file" -type f -print -quit)
    [[ -n $found ]] || die "$package of Debian trixie does not contain $file"
    mkdir -p "$(dirname "$to")"
    install -m 755 "$found" "$to.new"
    mv "$to.new" "$to"
    rm -rf "$work/tree" "$work/debs"
}

# fetch_plugin PACKAGE NAME: installs the docker CLI plugin NAME of PACKAGE to $TOOLS_DIR/plugins/NAME.
fetch_plugin() {
    local package=$1 name=$2 plugins=$TOOLS_DIR/plugins own
    if [[ -x $plugins/$name ]] && "$plugins/$name" docker-cli-plugin-metadata >/dev/null 2>&1; then return; fi
    mkdir -p "$plugins"
    for own in "$HOME/.docker/cli-plugins" /usr/local/lib/docker/cli-plugins /usr/local/libexec/docker/cli-plugins \
        /usr/lib/docker/cli-plugins /usr/libexec/docker/cli-plugins; do
        if [[ -x $own/$name ]]; then
            ln -sfn "$own/$name" "$plugins/$name"
            return
        fi
    done
    fetch_from_trixie "$package" "cli-plugins/$name" "$plugins/$name"
    "$plugins/$name" docker-cli-plugin-metadata >/dev/null || die "$name of Debian trixie does not run on this machine"
}

# plugin_config NAME...: makes a DOCKER_CONFIG folder with only these plugins; prints its path.
plugin_config() {
    local config name
    config=$TOOLS_DIR/config-$(IFS=-; echo "${*#docker-}")
    mkdir -p "$config/cli-plugins"
    [[ -e $config/config.json ]] || echo '{}' >"$config/config.json"
    for name in "$@"; do ln -sfn "$TOOLS_DIR/plugins/$name" "$config/cli-plugins/$name"; done
    echo "$config"
}

# ensure_buildx / ensure_compose: set BUILDX_DOCKER_CONFIG / COMPOSE_DOCKER_CONFIG to a DOCKER_CONFIG folder with the
# plugin. They do not change DOCKER_CONFIG.
# shellcheck disable=SC2034 # the caller reads them
ensure_buildx() {
    fetch_plugin docker-buildx docker-buildx
    BUILDX_DOCKER_CONFIG=$(plugin_config docker-buildx)
}
# shellcheck disable=SC2034
ensure_compose() {
    fetch_plugin docker-buildx docker-buildx
    fetch_plugin docker-compose docker-compose
    COMPOSE_DOCKER_CONFIG=$(plugin_config docker-compose docker-buildx)
}

# client_major DOCKER: prints the major version of a docker client.
client_major() { "$1" --version 2>/dev/null | sed -n 's/^Docker version \([0-9]*\).*/\1/p'; }

# ensure_builder: makes docker build with BuildKit. A client from 23 on needs buildx for it.
ensure_builder() {
    if (($(client_major docker) < 23)) || docker buildx version >/dev/null 2>&1; then return; fi
    ensure_buildx
    export DOCKER_CONFIG=$BUILDX_DOCKER_CONFIG
}

# ensure_client: sets DOCKER_CLIENT to a client of version 23 or newer, which builds with BuildKit by default: this
# machine's or Debian trixie's.
ensure_client() {
    local -a here
    mapfile -t here < <(type -ap docker)
    for DOCKER_CLIENT in "${here[@]}" "$TOOLS_DIR/client/docker"; do
        if [[ -x $DOCKER_CLIENT ]] && (($(client_major "$DOCKER_CLIENT") >= 23)); then return; fi
    done
    fetch_from_trixie docker-cli bin/docker "$DOCKER_CLIENT"
    (($(client_major "$DOCKER_CLIENT") >= 23)) || die "the docker client of Debian trixie does not run on this machine"
}

# ensure_cargo_deb: builds cargo-deb once, below $TOOLS_DIR, if it is missing.
CARGO_DEB_VERSION=3.8.0
ensure_cargo_deb() {
    PATH=$PATH:$HOME/.cargo/bin:$TOOLS_DIR/cargo/bin
    export PATH
    if command -v cargo-deb >/dev/null; then return; fi
    command -v cargo >/dev/null || die "cargo is missing" "https://rustup.rs"
    say "  building cargo-deb $CARGO_DEB_VERSION into $TOOLS_DIR/cargo"
    local log=$TOOLS_DIR/cargo-deb.log
    mkdir -p "$TOOLS_DIR"
    # do not build into the caller's target folder
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --root "$TOOLS_DIR/cargo" "cargo-deb@$CARGO_DEB_VERSION" \
        >"$log" 2>&1 </dev/null || { tail -n 20 "$log" >&2; die "cargo could not install cargo-deb"; }
}
