# shellcheck shell=bash
# A registry of the script's own: Debian's docker-registry on loopback, or, for certificates that are really checked
# (docker trusts loopback blindly), in a network namespace behind a veth pair. Sourced after common.sh.

# registry_start DIR ADDRESS:PORT [--tls CERT KEY] [--htpasswd FILE] [--netns NAME ADDRESS:PORT]: starts it, waits until it
# answers (from outside, at the second address, when it is in a namespace), and sets REGISTRY_PID. Its storage and its
# log are in DIR; it is stopped when the script ends. It caches as `registry:2` and Debian's package come configured.
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

# 401 is an answer as well: it asks for a login. -k because only life is asked for here, not identity.
registry_answers() {
    local code
    code=$(curl -skS -o /dev/null -w '%{http_code}' --noproxy '*' -m 3 "$1/v2/")
    [[ $code == 200 || $code == 401 ]]
}

# netns_make NAME: a namespace with one address on a veth pair; sets NETNS_ADDRESS (inside) and NETNS_HOST (outside).
# 198.18.0.0/15 is for benchmarks (RFC 2544), so nobody's network is in the way.
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

# netns_way_out NAME: what runs in that namespace reaches what this machine reaches, until the script ends.
netns_way_out() {
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

# hosts_add ADDRESS NAME: an entry in /etc/hosts that goes away with the script. Fails when NAME is there already.
# The file is rewritten in place: in a container it is a mount.
HOSTS_FILE=${HOSTS_FILE:-/etc/hosts}
HOSTS_MARK="# swanci $$"
hosts_has() { sed 's/#.*//' "$HOSTS_FILE" | grep -qwF -- "$1"; }
hosts_add() {
    mkdir -p /run/lock
    (
        flock 9
        ! hosts_has "$2" || exit 1
        # a file whose last line has no end would swallow the entry
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
