# shellcheck shell=bash
# A registry for the script: Debian's docker-registry on loopback or, because docker does not check certificates on
# loopback, in a network namespace behind a veth pair. Sourced after common.sh.

# registry_start DIR ADDRESS:PORT [--tls CERT KEY] [--htpasswd FILE] [--netns NAME ADDRESS:PORT]: starts a registry, waits
# until it answers (in a namespace: at the second address, from outside), and sets REGISTRY_PID. Storage and log are in DIR.
# The registry ends with the script. It uses the cache settings of `registry:2` and of Debian's package.
registry_start() {
    local dir=$1 address=$2 outside=$2 tls='' auth='' scheme=http
    local -a within=()
    shift 2
    while (($#)); do
        case $1 in
        --tls) tls=$(printf '\n  tls:\n    certificate: %s\n    key: %s' "$2" "$3") scheme=https; shift 2 ;;
        --htpasswd) auth=$(printf 'auth:\n  htpasswd:\n    realm: swanci\n    path: %s' "$2"); shift ;;
        --netns) within=(ip netns exec "$2") outside=$3; shift 2 ;;
        esac
        shift
    done
    mkdir -p "$dir/data"
    cat >"$dir/config.yml" <<YML
version: 0.1
log: {level: warn}
storage:
  cache: {blobdescriptor: inmemory}
  filesystem: {rootdirectory: $dir/data}
  delete: {enabled: true}
http:
  addr: $address
  secret: $(openssl rand -hex 16)$tls
$auth
YML
    "${within[@]}" docker-registry serve "$dir/config.yml" >"$dir/log" 2>&1 </dev/null &
    REGISTRY_PID=$!
    disown "$REGISTRY_PID"
    on_exit stop_pid "$REGISTRY_PID" 5
    wait_for 15 registry_answers "$scheme://$outside" || { tail -n 5 "$dir/log" >&2; die "the registry did not start"; }
}

# 401 counts as an answer: the registry requires a login. -k, because this checks only that the registry runs.
registry_answers() {
    local code
    code=$(curl -skS -o /dev/null -w '%{http_code}' --noproxy '*' -m 3 "$1/v2/")
    [[ $code == 200 || $code == 401 ]]
}

# netns_make NAME: creates a namespace with an address on a veth pair; sets NETNS_ADDRESS (inside) and NETNS_HOST
# (outside). 198.18.0.0/15 is reserved for benchmarks (RFC 2544), so it does not conflict with other networks.
netns_make() {
    local name=$1 out=sw${BASHPID}h in=sw${BASHPID}n a b
    ip netns add "$name" 2>/dev/null || return 1
    on_exit ip netns del "$name"
    for _ in {1..20}; do
        a=$((RANDOM % 250 + 1)) b=$((RANDOM % 62 * 4))
        ip -4 route show table all | grep -qF "198.18.$a.$b" || break
    done
    NETNS_HOST=198.18.$a.$((b + 1)) NETNS_ADDRESS=198.18.$a.$((b + 2))
    ip link add "$out" type veth peer name "$in" netns "$name" 2>/dev/null || return 1
    on_exit ip link del "$out"
    ip addr add "$NETNS_HOST/30" dev "$out" && ip link set "$out" up || return 1
    ip -n "$name" addr add "$NETNS_ADDRESS/30" dev "$in" && ip -n "$name" link set "$in" up && ip -n "$name" link set lo up
}

# netns_connect NAME: connects the namespace to this machine's networks, until the script ends.
netns_connect() {
    local direction
    ip -n "$1" route add default via "$NETNS_HOST" || return 1
    if [[ $(</proc/sys/net/ipv4/ip_forward) == 0 ]]; then
        on_exit forward_packets 0
        forward_packets 1
    fi
    on_exit iptables -w -t nat -D POSTROUTING -s "$NETNS_ADDRESS" -j MASQUERADE
    iptables -w -t nat -A POSTROUTING -s "$NETNS_ADDRESS" -j MASQUERADE || return 1
    for direction in -s -d; do
        on_exit iptables -w -D FORWARD "$direction" "$NETNS_ADDRESS" -j ACCEPT
        iptables -w -I FORWARD "$direction" "$NETNS_ADDRESS" -j ACCEPT || return 1
    done
}

forward_packets() { echo "$1" >/proc/sys/net/ipv4/ip_forward; }

# hosts_add ADDRESS NAME: adds an entry to /etc/hosts until the script ends. Fails if NAME already has an entry. The file is
# rewritten in place, because it is a mount in a container.
HOSTS_FILE=${HOSTS_FILE:-/etc/hosts}
HOSTS_MARK="# swanci $$"
hosts_has() { sed 's/#.*//' "$HOSTS_FILE" | grep -qwF -- "$1"; }
hosts_add() {
    mkdir -p /run/lock
    (
        flock 9
        ! hosts_has "$2" || exit 1
        # the last line may have no newline
        [[ -z $(tail -c 1 "$HOSTS_FILE") ]] || echo >>"$HOSTS_FILE"
        printf '%s %s %s\n' "$1" "$2" "$HOSTS_MARK" >>"$HOSTS_FILE"
    ) 9>/run/lock/swanci-hosts || return 1
    on_exit hosts_restore
}
hosts_restore() {
    (
        flock 9
        local rest
        rest=$(grep -vF -- "$HOSTS_MARK" "$HOSTS_FILE"; echo x)
        printf '%s' "${rest%x}" >"$HOSTS_FILE"
    ) 9>/run/lock/swanci-hosts
}
