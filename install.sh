#!/bin/sh
# Installs ingle on this machine, or upgrades it: running this again is the upgrade.
#
#   sudo ./install.sh [--port PORT] [--no-sample]
#   sudo ./install.sh --check                   say what stands in the way, change nothing
#   sudo ./install.sh --uninstall [--purge]     remove ingle; with --purge also what it keeps
#
# Run it from a checkout: there is no place to download releases from yet. The binary is $INGLE_BINARY,
# ./ingle, a release that was built here before, or is built now. Everything it will need is checked before
# anything is changed. Functions that run go on running through an upgrade.
set -eu

BINARY=/usr/local/bin/ingle
WATCHDOG=/usr/local/lib/ingle/fwatchdog
CONFIG=/etc/ingle/config.toml
RESOLV=/etc/ingle/resolv.conf
CONFLIST=/etc/cni/net.d/10-ingle.conflist
UNIT=/etc/systemd/system/ingle.service
STATE=/var/lib/ingle
RUN=/run/ingle
# What was installed here, as it was: tells a file that was changed from one that is only old.
SHIPPED=$STATE/shipped
# Only where there is no systemd.
PID_FILE=$RUN/ingle.pid
LOG_FILE=/var/log/ingle.log
CONTAINERD_LOG=/var/log/ingle-containerd.log

OLDEST_CONTAINERD=1.6
OLDEST_RUST=1.90

main() {
    port='' sample=yes action=install purge=no
    while [ $# -gt 0 ]; do
        case $1 in
            --port)
                [ $# -gt 1 ] || stop "--port needs a number" "write --port 8080"
                port=$2
                shift
                ;;
            --port=*) port=${1#*=} ;;
            --no-sample) sample=no ;;
            --check) action=check ;;
            --uninstall) action=uninstall ;;
            --purge) purge=yes ;;
            -h | --help)
                sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p}' "$0"
                return
                ;;
            *) stop "there is no option $1" "see ./install.sh --help" ;;
        esac
        shift
    done
    case $port in
        *[!0-9]*) stop "--port $port is not a number" "write --port 8080" ;;
    esac
    if [ "$purge" = yes ] && [ "$action" != uninstall ]; then
        stop "--purge goes with --uninstall" "write ./install.sh --uninstall --purge"
    fi
    if [ "$action" = uninstall ]; then
        uninstall
        return
    fi

    here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
    if [ ! -f "$here/systemd/ingle.service" ]; then
        stop "this needs the files beside it, and there is no release to download yet" \
            "clone the repository, and run ./install.sh in it"
    fi
    check
    [ "$action" = install ] || return 0
    install_packages
    build
    install_files
    start
    call_sample
    farewell
}

# ---- Saying things ---------------------------------------------------------------------------------------

step() { printf '\n==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }

# stop REASON WAY_OUT
stop() {
    printf '\ninstall.sh: %s\n  -> %s\n' "$1" "$2" >&2
    exit 1
}

faults=0
# fault REASON WAY_OUT: noted now; check stops when it has seen everything.
fault() {
    faults=$((faults + 1))
    printf '  %s\n    -> %s\n' "$1" "$2" >&2
}

has() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }
by_systemd() { [ -d /run/systemd/system ]; }

# at_least VERSION OLDEST
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# setting FILE SECTION KEY: a plain value out of a TOML file, empty if it is not there.
setting() {
    [ -f "$1" ] || return 0
    sed -n "/^\[$2\]/,/^\[/s/^[[:space:]]*$3[[:space:]]*=[[:space:]]*\"\{0,1\}\([^\"#]*[^\"#[:space:]]\).*/\1/p" "$1" |
        head -n 1
}

# conflist_value KEY: the text of this name in the conflist that holds here.
conflist_value() {
    file=$CONFLIST
    [ -f "$file" ] || file=${here:-/nowhere}/cni/10-ingle.conflist
    [ -f "$file" ] || return 0
    tr -d '\n' <"$file" | sed -n "s/.*\"$1\"[[:space:]]*:[[:space:]]*\"\([^\"]*\)\".*/\1/p"
}

# ---- Checking --------------------------------------------------------------------------------------------

check() {
    step "Checking this machine"
    packages=''
    if ! is_root; then
        fault "this is not root, so some things below may look worse than they are" "run: sudo $0"
    fi
    check_system
    check_kernel
    check_cgroup
    check_port
    check_subnet
    check_containerd
    check_sources
    check_packages
    check_space
    if [ "$faults" -gt 0 ]; then
        stop "$faults fault$([ "$faults" = 1 ] || echo s), listed above; nothing was changed" \
            "mend them and run this again"
    fi
    note "all is well"
    [ -z "$packages" ] || note "to be installed:$packages"
    [ -z "$build" ] || note "to be built: $build (with $cargo)"
}

check_system() {
    case $(uname -s) in
        Linux) ;;
        *) fault "this is $(uname -s), not Linux" "use a machine or virtual machine with Linux" ;;
    esac
    case $(uname -m) in
        x86_64 | aarch64) ;;
        *) fault "the processor is $(uname -m); ingle runs on x86_64 and aarch64" "use a 64-bit system" ;;
    esac
    if [ "$(getconf LONG_BIT 2>/dev/null || echo 64)" != 64 ]; then
        fault "a 32-bit system on a 64-bit kernel" "install the 64-bit image of your system"
    fi
}

# What is needed and not here, as Debian's packages.
check_packages() {
    has containerd || packages="$packages containerd"
    # Docker's containerd.io brings a runc; then this is there.
    has runc || packages="$packages runc"
    has nft || packages="$packages nftables"
    has curl || packages="$packages curl ca-certificates"
    has ip || packages="$packages iproute2"
    # For schedules in time zones.
    [ -e /usr/share/zoneinfo/Europe/Berlin ] || packages="$packages tzdata"
    has modprobe || [ ! -d "/lib/modules/$(uname -r)" ] || packages="$packages kmod"
    if [ -n "$packages" ] && ! has apt-get; then
        fault "missing:$packages; and there is no apt-get to install it" "install it by hand"
    fi
}

check_kernel() {
    for module in overlay bridge veth nf_tables nft_masq nft_ct; do
        has_module $module ||
            fault "the kernel has no $module" "install the kernel that your system comes with; then: modprobe $module"
    done
}

has_module() {
    if [ -d "/sys/module/$1" ] || grep -qsE "/$1\.ko" "/lib/modules/$(uname -r)/modules.builtin"; then
        return 0
    fi
    # Only root can find out more.
    if ! is_root || { has modprobe && modprobe -q "$1" 2>/dev/null; }; then
        return 0
    fi
    # Modules, and nothing to load them with yet.
    if ! has modprobe && [ -d "/lib/modules/$(uname -r)" ]; then
        return 0
    fi
    # A kernel in one piece says nothing about what it is made of: try it, in a network of its own.
    case $1 in
        overlay) grep -qw overlay /proc/filesystems ;;
        bridge | veth) unshare -n ip link add name probe type "$1" 2>/dev/null ;;
        nft_masq) try_nft 'type nat hook postrouting priority 100; masquerade' ;;
        nft_ct) try_nft 'type filter hook forward priority 0; ct state established accept' ;;
        *) try_nft 'type filter hook forward priority 0' ;;
    esac
}

# try_nft CHAIN: without nft there is nothing to try it with yet; the daemon will say if the kernel refuses.
try_nft() {
    ! has nft || unshare -n nft "table ip probe { chain c { $1; }; }" 2>/dev/null
}

check_cgroup() {
    if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
        controllers=$(cat /sys/fs/cgroup/cgroup.controllers)
    else
        # Version 1: those that are mounted.
        controllers=$(awk '$3 == "cgroup" { print $4 }' /proc/mounts | tr ',\n' '  ')
    fi
    for controller in memory cpu pids; do
        case " $controllers " in
            *" $controller "*) continue ;;
        esac
        if [ "$controller" = memory ] && grep -qs 'Raspberry Pi' /proc/device-tree/model; then
            file=/boot/firmware/cmdline.txt
            [ -f $file ] || file=/boot/cmdline.txt
            fault "the kernel does not count memory (cgroup controller memory)" \
                "add  cgroup_enable=memory cgroup_memory=1  to the one line of $file, and reboot"
        else
            fault "the kernel has no cgroup controller $controller" \
                "start it with cgroup_enable=$controller, or outside of a container that hides it"
        fi
    done
}

# Checks the ports of the gateway and of the admin listener; sets listen and port.
check_port() {
    listen=$(setting "$CONFIG" gateway listen)
    if [ -n "$listen" ] && [ -n "$port" ] && [ "$port" != "${listen##*:}" ]; then
        fault "--port $port, but $CONFIG says listen = \"$listen\"" "change it there, and leave out --port"
    fi
    listen=${listen:-0.0.0.0:${port:-8080}}
    port=${listen##*:}
    user=$(user_of_port "$port")
    [ -z "$user" ] || fault "port $port is in use by $user" "stop it, or choose another port: $0 --port 8000"

    named=$(setting "$CONFIG" gateway admin_listen)
    admin=${named:-127.0.0.1:8081}
    [ "$admin" != none ] || return 0
    user=$(user_of_port "${admin##*:}")
    case "${listen%:*}:${admin##*:}" in
        "0.0.0.0:$port" | "[::]:$port" | "${admin%:*}:$port") user=${user:-the gateway itself} ;;
    esac
    [ -n "$user" ] || return 0
    reason="the admin port, $admin, is in use by $user" way="set admin_listen in [gateway] of $CONFIG"
    if [ -n "$named" ]; then
        fault "$reason" "$way"
    else
        note "$reason: there will be no admin listener ($way)"
    fi
}

# user_of_port PORT: prints the program that listens there, unless it is the daemon.
user_of_port() {
    hex=$(printf '%04X' "$1")
    # 0A is LISTEN; the tenth field is the socket's inode.
    inode=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
        awk -v port=":$hex" '$4 == "0A" && substr($2, length($2) - 4) == port { print $10; exit }')
    [ -n "$inode" ] || return 0
    owners=$(find /proc/[0-9]*/fd -lname "socket:\[$inode\]" 2>/dev/null | cut -d/ -f3 | sort -nu)
    # systemd has the daemon's socket too, and alone while the daemon restarts.
    for owner in $owners; do
        [ "$(cat "/proc/$owner/comm" 2>/dev/null)" != ingle ] || return 0
    done
    if [ "${owner:-}" = 1 ] && by_systemd &&
        [ "$(systemctl show --property NFileDescriptorStore --value ingle.service)" -gt 0 ]; then
        return 0
    fi
    name=$(cat "/proc/${owner:-none}/comm" 2>/dev/null || echo "another process")
    echo "$name${owner:+ (process $owner)}"
}

check_subnet() {
    subnet=$(conflist_value subnet)
    bridge=$(conflist_value bridge)
    [ -n "$subnet" ] || return 0
    net=$(little_endian "${subnet%/*}")
    mask=$(mask_of "${subnet#*/}")
    # Addresses in this file are in the byte order of the machine, least significant first.
    clash=$(while read -r device destination _ _ _ _ _ route_mask _; do
        case $device:$route_mask in
            Iface:* | *:00000000 | "$bridge":*) continue ;;
        esac
        if [ $((0x$destination & mask & 0x$route_mask)) -eq $((net & mask & 0x$route_mask)) ]; then
            echo "$device"
            break
        fi
    done </proc/net/route)
    if [ -n "$clash" ]; then
        fault "functions would live in $subnet, but $clash has a route there" \
            "mkdir -p ${CONFLIST%/*}; cp cni/10-ingle.conflist $CONFLIST; put another subnet in it"
    fi
}

# little_endian A.B.C.D, as a number
little_endian() {
    echo "$1" | awk -F. '{ printf "%.0f\n", $1 + $2 * 256 + $3 * 65536 + $4 * 16777216 }'
}

mask_of() {
    echo "$1" | awk '{
        for (byte = 0; byte < 4; byte++) {
            bits = $1 - byte * 8; if (bits > 8) bits = 8; if (bits < 0) bits = 0
            mask += (256 - 2 ^ (8 - bits)) * 256 ^ byte
        }
        printf "%.0f\n", mask }'
}

check_containerd() {
    has containerd || return 0
    # "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1", or v1.7.24 from Docker.
    found=$(containerd --version 2>/dev/null | awk '{ sub(/^v/, "", $3); print $3 }')
    if ! at_least "${found:-0}" "$OLDEST_CONTAINERD"; then
        fault "containerd is ${found:-broken}; ingle needs $OLDEST_CONTAINERD or newer" \
            "apt-get install containerd, or upgrade the system"
    fi
    if ! has ctr; then
        fault "containerd is here, but not its tool ctr, which --uninstall needs" "reinstall containerd"
    fi
}

# Decides where the binary and the sample's image come from: sets binary, archive, and what has to be built.
check_sources() {
    build='' cargo=''
    host=$(uname -m)-unknown-linux-gnu
    binary=$here/target/$host/release/ingle
    if [ -n "${INGLE_BINARY:-}" ]; then
        binary=$INGLE_BINARY
    elif [ -f "$here/ingle" ]; then
        binary=$here/ingle
    elif ! is_fresh "${binary%/*}"; then
        build=binary
    fi
    if [ -z "$build" ] && ! shown=$("$binary" --version 2>&1); then
        fault "$binary does not run here: $(echo "$shown" | head -n 1)" \
            "give one that was built for $(uname -m), or none: it is built then"
    fi
    archive=$here/examples/hello.tar
    [ -f "$archive" ] || archive=$here/target/examples/hello.tar
    if [ "$sample" = yes ] && [ ! -f "$archive" ]; then
        build="$build sample"
    fi
    [ -z "$build" ] || check_compiler
}

# Whether a directory has both programs, each newer than what it is made from.
is_fresh() {
    is_newer "$1/ingle" "$here/src" -path "$here/src/watchdog" -prune -o -name '*.rs' &&
        is_newer "$1/fwatchdog" "$here/src/watchdog" "$here/src/http1" "$here/src/quantity" -name '*.rs'
}

# is_newer FILE ARGUMENT...: than what find finds with these, and than the manifests.
is_newer() {
    file=$1
    shift
    [ -x "$file" ] && [ -z "$(find "$@" -newer "$file" -print)" ] &&
        [ -z "$(find "$here" -maxdepth 3 -path "$here/target" -prune -o \( -name Cargo.toml -o -name Cargo.lock \) -newer "$file" -print)" ]
}

# Finds a Rust compiler that is new enough: of whoever called sudo, of root, of the system, or by apt. Sets
# cargo, and builder: whose it is.
check_compiler() {
    has protoc || packages="$packages protobuf-compiler"
    has cc || packages="$packages gcc"
    [ -f /usr/include/stdio.h ] || packages="$packages libc6-dev"
    for builder in "${SUDO_USER:-root}" root; do
        rustup=$(home_of "$builder")/.rustup
        cargo=$(home_of "$builder")/.cargo/bin/cargo
        if [ -x "$cargo" ] && is_new_enough; then
            # What root has built there before, nobody else can write to.
            [ "$(stat -c %U "$here/target" 2>/dev/null)" != root ] || builder=root
            return
        fi
    done
    if cargo=$(command -v cargo) && is_new_enough; then
        return
    fi
    cargo=/usr/bin/cargo
    # On a new machine apt may never have fetched what it offers.
    ! is_root || apt_get update -qq >/dev/null 2>&1 || true
    for candidate in cargo-web cargo; do
        offered=$(apt-cache policy $candidate 2>/dev/null | awk '$1 == "Candidate:" { print $2 }')
        # Old packages of cargo have numbers of their own, which start with 0.
        if at_least "${offered:-0}" "$OLDEST_RUST"; then
            packages="$packages $candidate rustc${candidate#cargo}"
            return
        fi
    done
    fault "there is no Rust $OLDEST_RUST or newer to build the$(echo " $build" | tr -s ' ') with, and apt offers none" \
        "curl https://sh.rustup.rs -sSf | sh, and run this again"
}

is_new_enough() {
    version=$(as_builder "$cargo" --version 2>/dev/null | cut -d' ' -f2)
    at_least "${version:-0}" "$OLDEST_RUST"
}

home_of() { getent passwd "$1" | cut -d: -f6; }

# as_builder COMMAND...: as the one whose compiler it is, so that root leaves no files of its own in the checkout.
as_builder() {
    runuser -u "$builder" -- env HOME="$(home_of "$builder")" RUSTUP_HOME="$rustup" \
        PATH="$(dirname "$cargo"):/usr/local/bin:/usr/bin:/bin" "$@"
}

check_space() {
    need_space /var/lib 500 "images and functions"
    [ -z "$build" ] || need_space "$here" 3000 "compilers"
}

# need_space DIRECTORY MEGABYTES WHAT_FOR
need_space() {
    free=$(df -Pm "$1" | awk 'NR == 2 { print $4 }')
    if [ "$free" -lt "$2" ]; then
        fault "$1 has $free MB free; $3 need $2 MB" "make room there"
    fi
}

# ---- Installing ------------------------------------------------------------------------------------------

install_packages() {
    [ -n "$packages" ] || return 0
    step "Installing$packages"
    # A list that cannot be refreshed, of some other source of packages, need not matter.
    apt_get update -qq || note "apt-get update failed; going on with the lists that are there"
    # shellcheck disable=SC2086  # a list of names
    apt_get install -y -qq --no-install-recommends $packages ||
        stop "apt-get install failed" "see its message above"
}

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"; }

# The commit of this checkout, for `ingle --version`; nothing if it is none.
commit() {
    [ -e "$here/.git" ] || return 0
    # Whoever owns the checkout: root only looks, and leaves no files there.
    git --no-optional-locks -c safe.directory="$here" -C "$here" \
        describe --always --exclude='*' --abbrev=12 --dirty 2>/dev/null || true
}

build() {
    case $build in
        binary*)
            step "Building the release, which takes some minutes"
            as_builder env CARGO="$cargo" INGLE_COMMIT="$(commit)" "$here/.ci/release" "$host" ||
                stop "the build failed" "see its message above"
            ;;
    esac
    case $build in
        *sample)
            step "Building the sample function"
            as_builder "$here/examples/build.sh" hello "$archive" ||
                stop "the sample could not be built" "see the message above, or give --no-sample"
            ;;
    esac
}

install_files() {
    step "Installing files"
    changed=no
    mkdir -p /etc/ingle "${CONFLIST%/*}" "${BINARY%/*}"
    install -d -m 0700 "$STATE" "$SHIPPED"
    if ! cmp -s "$binary" "$BINARY"; then
        # Under another name first: a file that runs cannot be written to, and half of one must never be seen.
        install -m 0755 "$binary" "$BINARY.new"
        mv -f "$BINARY.new" "$BINARY"
        changed=yes
        note "$BINARY: $("$BINARY" --version)"
    fi
    # It is built beside the other. Functions that run keep the one that they were started with.
    watchdog=${binary%/*}/fwatchdog
    if [ ! -f "$watchdog" ]; then
        note "no watchdog beside $binary: commands in images without one (--fprocess) will be refused"
    elif ! cmp -s "$watchdog" "$WATCHDOG"; then
        mkdir -p "${WATCHDOG%/*}"
        install -m 0755 "$watchdog" "$WATCHDOG.new"
        mv -f "$WATCHDOG.new" "$WATCHDOG"
        note "$WATCHDOG: $("$WATCHDOG" --version)"
    fi
    if [ ! -f "$CONFIG" ]; then
        cat >"$CONFIG.new" <<END
# Settings of ingle; docs/configuration.md lists all of them, with their defaults.
# After a change: systemctl restart ingle (functions go on running).

[gateway]
listen = "$listen"
END
        mv "$CONFIG.new" "$CONFIG"
        changed=yes
        note "$CONFIG: new"
    fi
    ship "$here/cni/10-ingle.conflist" "$CONFLIST"
    ship "$here/resolv/resolv.conf" "$RESOLV"
    if by_systemd; then
        ship "$here/systemd/ingle.service" "$UNIT"
    fi
}

# ship SOURCE TARGET: installs a file, unless its owner has changed the one that is there.
ship() {
    record=$SHIPPED/$(basename "$2")
    if [ -f "$2" ] && ! cmp -s "$2" "$record" && ! cmp -s "$2" "$1"; then
        note "$2: was changed here, and stays as it is"
        return
    fi
    if ! cmp -s "$1" "$2"; then
        install -m 0644 "$1" "$2.new"
        mv -f "$2.new" "$2"
        changed=yes
        note "$2: new"
    fi
    cp "$1" "$record"
}

# ---- Starting --------------------------------------------------------------------------------------------

start() {
    step "Starting"
    # The bridge and the rules load what they need of the kernel by themselves; overlay may have to be asked for.
    modprobe -q overlay 2>/dev/null || true
    if by_systemd; then
        systemctl daemon-reload
        if ! systemctl enable -q --now containerd.service; then
            # One that another service starts is as good.
            containerd_answers || stop "containerd does not start" "journalctl -u containerd"
        fi
        systemctl enable -q ingle.service
        if [ "$changed" = yes ] || ! systemctl is-active -q ingle.service; then
            systemctl restart ingle.service || failed_start
        fi
    else
        start_containerd
        if [ "$changed" = yes ] || ! daemon_runs; then
            stop_daemon
            start_daemon
        fi
    fi
    wait_for_gateway
}

containerd_answers() {
    socket=$(setting "$CONFIG" containerd socket)
    socket=${socket:-/run/containerd/containerd.sock}
    ctr --address "$socket" version >/dev/null 2>&1
}

# Without systemd.

# private FILE: makes an empty file that root alone can read: output of functions may be in the log.
private() { install -m 0600 /dev/null "$1"; }

start_containerd() {
    ! containerd_answers || return 0
    note "starting containerd; its output goes to $CONTAINERD_LOG"
    private "$CONTAINERD_LOG"
    setsid nohup containerd --address "$socket" >"$CONTAINERD_LOG" 2>&1 </dev/null &
    tries=0
    until containerd_answers; do
        tries=$((tries + 1))
        if [ $tries -gt 60 ]; then
            tail -n 5 "$CONTAINERD_LOG" >&2
            stop "containerd does not answer on $socket" "its last lines are above; all are in $CONTAINERD_LOG"
        fi
        sleep 0.5
    done
}

daemon_runs() {
    [ -f "$PID_FILE" ] && [ "$(cat "/proc/$(cat "$PID_FILE")/comm" 2>/dev/null)" = ingle ]
}

start_daemon() {
    install -d -m 0700 "$RUN"
    [ ! -f "$LOG_FILE" ] || mv "$LOG_FILE" "$LOG_FILE.1"
    private "$LOG_FILE"
    setsid nohup "$BINARY" serve --config "$CONFIG" >"$LOG_FILE" 2>&1 </dev/null &
    pid=$!
    echo $pid >"$PID_FILE"
    # Until it is the daemon, or has ended, it has another name.
    tries=0
    until daemon_runs || [ ! -d "/proc/$pid" ] || [ $tries -ge 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    note "without systemd: the daemon is process $(cat "$PID_FILE"); its output goes to $LOG_FILE"
    note "after a reboot run this again, or let your init run: $BINARY serve --config $CONFIG"
}

stop_daemon() {
    daemon_runs || return 0
    pid=$(cat "$PID_FILE")
    kill "$pid"
    tries=0
    while [ -d "/proc/$pid" ]; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || stop "the running daemon ($pid) does not end" "kill -9 $pid, and run this again"
        sleep 0.5
    done
    rm -f "$PID_FILE"
}

wait_for_gateway() {
    host_part=${listen%:*}
    case $host_part in
        0.0.0.0 | '[::]') host_part=127.0.0.1 ;;
    esac
    INGLE_GATEWAY=http://$host_part:$port
    export INGLE_GATEWAY
    tries=0
    # The gateway is on this machine: no proxy of the environment is used.
    while :; do
        # Status and reason of one response: the next one may be another.
        reply=$(curl -s --noproxy '*' -m 2 -w ' %{http_code}' "$INGLE_GATEWAY/healthz" 2>/dev/null || true)
        case $reply in
            *' 200') break ;;
            # Nobody listens, or not in time.
            *' 000' | '') ;;
            *) stop "the daemon runs, and takes no changes: ${reply% *}" "$BINARY doctor" ;;
        esac
        tries=$((tries + 1))
        if [ $tries -gt 120 ] || { ! by_systemd && ! daemon_runs; }; then
            failed_start
        fi
        sleep 0.5
    done
    note "the gateway answers on $INGLE_GATEWAY"
}

failed_start() {
    if by_systemd; then
        journalctl -u ingle.service -n 20 --no-pager -o cat >&2 || true
        stop "the daemon did not start" "its last lines are above; all: journalctl -u ingle"
    fi
    tail -n 20 "$LOG_FILE" >&2 || true
    stop "the daemon did not start" "its last lines are above; all are in $LOG_FILE"
}

# ---- The sample ------------------------------------------------------------------------------------------

call_sample() {
    [ "$sample" = yes ] || return 0
    # Made once: whoever removed it does not want it back with an upgrade.
    if [ -f "$SHIPPED/sample" ] && ! "$BINARY" describe hello >/dev/null 2>&1; then
        return 0
    fi
    if [ ! -f "$SHIPPED/sample" ]; then
        step "Deploying a sample function"
        "$BINARY" image load "$archive" || stop "the sample's image could not be loaded" "see the message above"
        "$BINARY" deploy hello --image docker.io/examples/hello:latest --annotation ingle.pull-policy=Never ||
            stop "the sample could not be deployed" "see the message above"
        touch "$SHIPPED/sample"
    fi
    step "Calling it"
    answer=$("$BINARY" invoke hello </dev/null) || stop "the sample does not answer" "$BINARY logs hello"
    note "$answer"
}

# The address of this machine on the bridge.
bridge_address() {
    conflist_value gateway | grep . || conflist_value subnet | sed 's|\.[0-9]*/.*|.1|'
}

farewell() {
    # Of the way out, not of the bridge.
    address=$(ip -4 route get 192.0.2.1 2>/dev/null | sed -n 's/.* src \([^ ]*\).*/\1/p')
    case ${listen%:*} in
        0.0.0.0 | '[::]') ;;
        *) address=${listen%:*} ;;
    esac
    step "Done"
    note "Gateway    http://${address:-127.0.0.1}:$port, functions at /function/NAME"
    note "User       admin, password in $STATE/secrets/basic-auth-password; 'sudo ingle' on this machine needs none"
    case ${listen%:*} in
        127.* | '[::1]' | "$(bridge_address)") ;;
        *)
            note ""
            note "Other machines can reach the gateway and its API in plain HTTP. To close it, set in [gateway] of $CONFIG"
            note "    listen = \"$(bridge_address):$port\"   # functions and this machine"
            note "and put a proxy with TLS in front of it that passes /function/ (docs/operating.md, HTTPS)"
            ;;
    esac
    note ""
    note "Next:"
    note "  sudo ingle list"
    note "  sudo ingle logs hello --follow"
    note "  sudo ingle deploy figlet --image ghcr.io/openfaas/figlet:latest"
}

# ---- Removing --------------------------------------------------------------------------------------------

uninstall() {
    is_root || stop "this is not root" "run: sudo $0 --uninstall"
    bridge=$(conflist_value bridge)
    network=$(conflist_value name)
    namespace=$(setting "$CONFIG" containerd namespace)
    namespace=${namespace:-ingle} bridge=${bridge:-ingle0} network=${network:-ingle}

    step "Stopping the daemon"
    if by_systemd; then
        if [ -f "$UNIT" ]; then
            systemctl disable -q --now ingle.service || true
        fi
    else
        stop_daemon
    fi

    step "Stopping functions"
    if containerd_answers; then
        remove_containers
        [ "$purge" = no ] || remove_images
    else
        note "containerd does not answer on $socket: what it keeps for ingle stays there"
    fi
    remove_network

    step "Removing files"
    rm -f "$BINARY" "$WATCHDOG" "$UNIT" "$PID_FILE"
    rmdir "${WATCHDOG%/*}" 2>/dev/null || true
    rm -rf "$RUN"
    ! by_systemd || systemctl daemon-reload
    if [ "$purge" = yes ]; then
        rm -rf /etc/ingle "$CONFLIST" "$LOG_FILE" "$LOG_FILE.1" "$CONTAINERD_LOG"
        # It may be the root of a file system of its own, which only who mounted it takes away.
        [ ! -d "$STATE" ] || find "$STATE" -xdev -mindepth 1 -delete
        rmdir "$STATE" 2>/dev/null || [ ! -d "$STATE" ] || note "$STATE is a mount point: emptied, and left"
        note "nothing of ingle is left; packages that it needed stay (containerd, runc, nftables)"
    else
        note "kept: $STATE, /etc/ingle, $CONFLIST and the images; ./install.sh brings all of it back,"
        note "./install.sh --uninstall --purge removes it"
    fi
}

ours() { ctr --address "$socket" --namespace "$namespace" "$@"; }

# each COMMAND...: what a listing names, one line each, given to a command.
each() {
    while read -r item; do
        ours "$@" "$item" >/dev/null 2>&1 || true
    done
}

remove_containers() {
    ours tasks ls -q | while read -r task; do
        ours tasks delete --force "$task" >/dev/null 2>&1 || note "the task of $task did not go"
    done
    ours containers ls -q | each containers delete
    # The control group above those of the containers, in each hierarchy.
    rmdir "/sys/fs/cgroup/$namespace" /sys/fs/cgroup/*/"$namespace" 2>/dev/null || true
}

remove_images() {
    ours images ls -q | each images remove --sync
    ours leases ls -q | each leases delete --sync
    # A snapshot goes once nothing stands on it: as many rounds as there are layers.
    for snapshotter in $(ours plugins ls 2>/dev/null | awk '$1 ~ /snapshotter/ && $NF == "ok" { print $2 }'); do
        rounds=0
        while left=$(ours snapshots --snapshotter "$snapshotter" ls | awk 'NR > 1 { print $1 }') &&
            [ -n "$left" ] && [ $rounds -lt 130 ]; do
            echo "$left" | each snapshots --snapshotter "$snapshotter" remove
            rounds=$((rounds + 1))
        done
    done
    ours content ls -q | each content delete
    ctr --address "$socket" namespaces remove "$namespace" >/dev/null 2>&1 ||
        note "containerd keeps its namespace $namespace, which is not empty"
}

remove_network() {
    step "Removing the network"
    # The word that the daemon marks everything of this network with: `tag` in src/host/network/cni/conflist/mod.rs.
    case $network in
        ingle*) ;;
        *) network=ingle-$network ;;
    esac
    for file in /run/netns/"$network".*; do
        [ -e "$file" ] || continue
        umount "$file" 2>/dev/null || true
        rm -f "$file"
    done
    ip link delete "$bridge" 2>/dev/null || true
    # A daemon that was killed leaves an nft that holds a copy of the rules, which nobody else can remove. Opened for
    # reading, too: without a reader the opening would wait for one.
    for holder in "$RUN"/rules/*; do
        [ ! -p "$holder" ] || echo quit 1<>"$holder"
    done
    nft delete table inet "$network" 2>/dev/null || true
}

main "$@"
