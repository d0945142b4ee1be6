#!/bin/bash
# The whole life of an installation, as process 1 of namespaces of its own: nothing here is the machine's.
# Everything that install.sh writes to is a file system that ends with this process; there is no systemd.
# Control groups have no namespace: those of the containers are below one called NAMESPACE.
#   run.sh PROJECT BINARY ARCHIVE CHECKOUT NAMESPACE
# CHECKOUT is an empty directory.
set -euo pipefail

project=$1 binary=$2 archive=$3 checkout=$4 namespace=$5
gateway=http://127.0.0.1:8080

# Before anything is hidden: the project may be anywhere.
mount -t tmpfs tmpfs "$checkout"
cp -a "$project/install.sh" "$project/systemd" "$project/cni" "$project/resolv" "$checkout"
mkdir "$checkout/examples"
cp "$archive" "$checkout/examples/hello.tar"
cp "$binary" "${binary%/*}/fwatchdog" "$checkout"
cd "$checkout"
# The settings of the first installation, and this.
sed -i "s/^listen = \"\$listen\"\$/&\n\n[containerd]\nnamespace = \"$namespace\"/" install.sh
grep -qF "namespace = \"$namespace\"" install.sh

mount -t proc proc /proc
for directory in /run /var/lib /var/log /usr/local /opt /root; do
    mount -t tmpfs tmpfs "$directory"
done
# A copy, not an overlay: in a container under tests/isolated this is one of another already, and the kernel allows two.
mkdir /root/etc
cp -a /etc/. /root/etc
mount --bind /root/etc /etc
rm -rf /etc/ingle /etc/cni/net.d /etc/containerd
ip link set lo up

say() { printf '\n## %s\n' "$*"; }
die() {
    printf '\nFAILED: %s\n' "$*"
    cat /var/log/ingle.log || true
    exit 1
}
mounts() { cut -d' ' -f5 /proc/self/mountinfo | sort; }
tasks() { ctr -n "$namespace" tasks ls | awk 'NR > 1 { print $1, $2 }' | sort; }
answers() { curl -fsS -m 30 "$gateway/function/hello" | grep -q 'Hello from a function'; }
has_no_daemon() { [ ! -d "/proc/$(cat /run/ingle/ingle.pid)" ]; }
has_no_tables() { [ -z "$(nft list tables)" ]; }
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.2
    done
}

mounts=$(mounts)

say "a first installation, with a proxy in the environment that nobody answers at"
http_proxy=http://127.0.0.1:9 all_proxy=http://127.0.0.1:9 ./install.sh | tee /root/said || die "the installer"
answers || die "the sample does not answer"
for part in 'Hello from a function' "$gateway" /function/hello basic-auth-password 'ingle list' 'listen = "10.62.0.1:8080"'; do
    grep -qF -- "$part" /root/said || [ "$part" = "$gateway" ] || die "the installer does not say $part"
done
[ "$(stat -c %a /var/lib/ingle/secrets/basic-auth-password)" = 600 ] || die "the password is open"
[ "$(stat -c %a /var/log/ingle.log)" = 600 ] || die "anybody can read the log"
[ "$(stat -c '%a %U' /run/ingle /run/ingle/api.sock | xargs)" = '700 root 600 root' ] || die "the socket is open"
password=$(cat /var/lib/ingle/secrets/basic-auth-password)
! grep -qF "$password" /root/said || die "the installer shows the password"
cmp fwatchdog /usr/local/lib/ingle/fwatchdog || die "the watchdog is not there"
before=$(tasks) daemon=$(cat /run/ingle/ingle.pid)
[ -n "$before" ] || die "no task runs"

say "the same once more: nothing changes"
./install.sh || die "the second run"
[ "$(cat /run/ingle/ingle.pid)" = "$daemon" ] || die "the daemon was restarted for nothing"
[ "$(tasks)" = "$before" ] || die "containers changed: $before now $(tasks)"

say "an upgrade: another binary, changed files of the owner's"
# The same program with something behind it: another file.
echo >>ingle
printf '\n[functions]\ntimeout = "30s"\n' >>/etc/ingle/config.toml
echo '# mine' >>/etc/ingle/resolv.conf
cp /etc/ingle/config.toml /etc/ingle/resolv.conf /root/
./install.sh || die "the upgrade"
[ "$(cat /run/ingle/ingle.pid)" != "$daemon" ] || die "the daemon was not restarted"
[ ! -d "/proc/$daemon" ] || die "the old daemon still runs"
cmp ingle /usr/local/bin/ingle || die "the binary is not the new one"
cmp /root/config.toml /etc/ingle/config.toml || die "the settings were changed"
cmp /root/resolv.conf /etc/ingle/resolv.conf || die "the owner's resolv.conf was changed"
[ "$(tasks)" = "$before" ] || die "containers changed: $before now $(tasks)"
[ "$(cat /var/lib/ingle/secrets/basic-auth-password)" = "$password" ] || die "the password changed"
answers || die "the sample does not answer after the upgrade"

say "a sample that was removed stays away"
ingle remove hello || die "remove"
./install.sh || die "a run without the sample"
[ -z "$(tasks)" ] || die "the sample came back"
ingle deploy hello --image docker.io/examples/hello:latest --annotation ingle.pull-policy=Never || die "deploy"

say "a daemon that cannot start: the reason is shown"
sed -i 's/^timeout = .*/timeout = "soon"/' /etc/ingle/config.toml
echo >>ingle
if ./install.sh >/root/said 2>&1; then
    die "the installer succeeds with a broken configuration"
fi
cat /root/said
grep -qF 'functions.timeout = "soon"' /root/said || die "the installer does not show why"
sed -i 's/^timeout = .*/timeout = "30s"/' /etc/ingle/config.toml
./install.sh || die "the run after the mistake was mended"
within 30 answers || die "the sample does not answer after the mistake"

say "uninstalled, and installed again: with its functions"
./install.sh --uninstall || die "uninstall"
[ -z "$(tasks)" ] || die "functions still run"
[ ! -e /usr/local/bin/ingle ] || die "the binary is still there"
[ -d /var/lib/ingle/secrets ] || die "the data is gone"
./install.sh || die "the installation after the uninstall"
within 60 answers || die "the function did not come back"

say "purged after the daemon was killed: nothing is left"
kill -9 "$(cat /run/ingle/ingle.pid)"
within 5 has_no_daemon || die "the killed daemon is still there"
[[ $(nft list tables) = */owned* ]] || die "the firewall rules went with the daemon"
./install.sh --uninstall --purge || die "purge"
within 5 has_no_tables || die "left behind: $(nft list tables)"
left=$(ls -d /etc/ingle /var/lib/ingle /run/ingle /usr/local/*/* /etc/cni/net.d/* /var/log/ingle* \
    /run/netns/* 2>/dev/null || true)
left=$left$(ip -o link | grep -E 'ingle|veth' || true)$(nft list tables)$(ctr namespaces ls -q | grep -F "$namespace" || true)
left=$left$(find /sys/fs/cgroup -type d -name "$namespace")
[ -z "$left" ] || die "left behind: $left"
! pgrep -x ingle || die "the daemon still runs"
# Mounts of the machine's own are listed too, hidden under ours.
left=$(comm -13 <(echo "$mounts") <(mounts) | grep -E '/ingle|/run/netns/' || true)
[ -z "$left" ] || die "left behind: mounts at $left"

say "a state directory with a file system of its own"
mkdir -p /var/lib/ingle
mount -t tmpfs tmpfs /var/lib/ingle
mkdir /var/lib/ingle/secrets
touch /var/lib/ingle/secrets/one
./install.sh --uninstall --purge || die "purge of a mounted state directory"
[ -z "$(ls -A /var/lib/ingle)" ] || die "the mounted state directory is not empty"
say "done"
