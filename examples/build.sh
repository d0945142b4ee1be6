#!/bin/sh
# Builds the image of a sample function without Docker and without a registry.
#
#   examples/build.sh NAME [ARCHIVE]
#
# compiles examples/NAME/main.rs into one static binary and packs it as ARCHIVE (target/examples/NAME.tar unless
# given), in the format of `docker save`; the image is called examples/NAME:latest. Load it with
# `ingle image load ARCHIVE`. Needs rustc, gcc and libc6-dev. The same sources give the same archive. For another
# architecture TARGET names it, as aarch64-unknown-linux-gnu, and RUSTC a compiler that has it.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
name=${1:?"usage: examples/build.sh NAME [ARCHIVE]"}
archive=${2:-$here/../target/examples/$name.tar}

if [ ! -f "$here/$name/main.rs" ]; then
    echo "examples/build.sh: there is no examples/$name/main.rs" >&2
    exit 1
fi
machine=${TARGET:-$(uname -m)}
machine=${machine%%-*}
case $machine in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *)
        echo "examples/build.sh: no images for $machine, only for x86_64 and aarch64" >&2
        exit 1
        ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work" "$archive.$$"' EXIT
trap 'exit 130' INT TERM

mkdir "$work/root" "$work/image"
"${RUSTC:-rustc}" ${TARGET:+--target "$TARGET" -C "linker=$machine-linux-gnu-gcc"} --edition 2024 --crate-name "$name" -C opt-level=3 -C strip=symbols -C panic=abort \
    -C codegen-units=1 -C target-feature=+crt-static -o "$work/root/$name" "$here/$name/main.rs"

# Nothing of this machine or moment: the archive depends on the sources and the compiler alone.
pack() {
    directory=$1 file=$2
    shift 2
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu -C "$directory" -cf "$file" "$@"
}
mkdir -m 1777 "$work/root/tmp"
pack "$work/root" "$work/image/layer.tar" .
layer=$(sha256sum "$work/image/layer.tar" | cut -d' ' -f1)

cat >"$work/image/config.json" <<END
{"architecture":"$architecture","os":"linux","created":"1970-01-01T00:00:00Z",
"config":{"Entrypoint":["/$name"],"Env":["PATH=/"],"ExposedPorts":{"8080/tcp":{}},"User":"1000:1000","WorkingDir":"/"},
"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},
"history":[{"created":"1970-01-01T00:00:00Z","created_by":"examples/build.sh $name"}]}
END
cat >"$work/image/manifest.json" <<END
[{"Config":"config.json","RepoTags":["examples/$name:latest"],"Layers":["layer.tar"]}]
END

mkdir -p "$(dirname -- "$archive")"
pack "$work/image" "$archive.$$" manifest.json config.json layer.tar
mv -f "$archive.$$" "$archive"
echo "$archive"
