#!/usr/bin/env bash
# Proves the two commands of the README on a fresh machine: a debootstrap chroot of Debian 12 that has root,
# cargo and gcc and nothing else. Then repeats them with the network off (unshare -n). Prints wall times.
#
#   vm-images/fresh-machine.sh [--until setup|run|all] [--working-tree] [--run-arguments "..."] DIRECTORY
#
# DIRECTORY holds the chroot and is made if absent; a chroot that is there already is used again, so remove
# it for a truly fresh start. --working-tree takes the tree as it stands instead of a clone of HEAD.
# Needs root, git and debootstrap. The mirror is the one of this machine's own package sources.
set -euo pipefail

until=all
tree=clone
run_arguments=()
while [ $# -gt 1 ]; do
    case $1 in
        --until) until=$2; shift 2 ;;
        --working-tree) tree=working; shift ;;
        --run-arguments) read -r -a run_arguments <<<"$2"; shift 2 ;;
        *) echo "fresh-machine: unknown option $1" >&2; exit 2 ;;
    esac
done
if [ $# -ne 1 ]; then
    echo "usage: $0 [--until setup|run|all] [--working-tree] [--run-arguments \"...\"] DIRECTORY" >&2
    exit 2
fi
case $until in setup | run | all) ;; *) echo "fresh-machine: --until setup, run or all" >&2; exit 2 ;; esac
if [ "$(id -u)" -ne 0 ]; then
    echo "fresh-machine: only root can make a chroot" >&2
    exit 1
fi

# Mounts made below belong to a mount namespace of this script alone and vanish with it.
if [ -z "${PTEDIFF_FRESH_MACHINE_INSIDE:-}" ]; then
    export PTEDIFF_FRESH_MACHINE_INSIDE=1
    options=(--until "$until" --run-arguments "${run_arguments[*]}")
    [ "$tree" = working ] && options+=(--working-tree)
    exec unshare --mount --propagation private "$0" "${options[@]}" "$1"
fi

repository=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
root=$(cd "$1" && pwd)
toolchain=$(sed -n 's/^channel = "\(.*\)"$/\1/p' "$repository/rust-toolchain.toml")
cargo_home=${CARGO_HOME:-$HOME/.cargo}
rustup_home=${RUSTUP_HOME:-$HOME/.rustup}

timed() {
    local title=$1 start end status=0
    shift
    echo "=== fresh-machine: $title"
    start=$(date +%s.%N)
    "$@" || status=$?
    end=$(date +%s.%N)
    printf '=== fresh-machine: %s: exit code %d after %.1f s\n' "$title" "$status" \
        "$(echo "$end $start" | awk '{ print $1 - $2 }')"
    return "$status"
}

bootstrap() {
    local mirror
    mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^bookworm //p' | head -n 1)
    if [ -z "$mirror" ]; then
        echo "fresh-machine: this machine's package sources name no mirror of bookworm" >&2
        return 1
    fi
    # ca-certificates is what cargo itself needs to reach its registry.
    debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates bookworm "$root" "$mirror" \
        >"$root.debootstrap.log" 2>&1 || { tail -n 20 "$root.debootstrap.log" >&2; return 1; }
    # A local authority or proxy of this machine holds for the chroot too.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    touch "$root/.bootstrapped"
}

copy_toolchain() {
    local name source
    mkdir -p "$root/root/.cargo" "$root/root/.rustup/toolchains"
    cp -a "$cargo_home/bin" "$root/root/.cargo/"
    cp "$rustup_home/settings.toml" "$root/root/.rustup/"
    [ ! -f "$cargo_home/config.toml" ] || cp "$cargo_home/config.toml" "$root/root/.cargo/"
    for source in "$rustup_home/toolchains/$toolchain"-*; do
        name=$(basename "$source")
        [ -e "$root/root/.rustup/toolchains/$name" ] || cp -aL "$source/." "$root/root/.rustup/toolchains/$name"
    done
}

copy_tree() {
    local target=$root/root/ptediff
    if [ "$tree" = clone ]; then
        rm -rf "$target"
        git clone --quiet --no-hardlinks "$repository" "$target"
    else
        mkdir -p "$target"
        git -C "$repository" ls-files -z --cached --others --exclude-standard |
            tar -C "$repository" --null --files-from=- --ignore-failed-read -c | tar -C "$target" -x
    fi
}

# in_chroot [--network-off] command...
in_chroot() {
    local isolation=()
    if [ "$1" = --network-off ]; then
        isolation=(unshare --net)
        shift
    fi
    local environment=(HOME=/root PATH=/root/.cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb)
    local variable
    for variable in http_proxy https_proxy no_proxy; do
        [ -z "${!variable:-}" ] || environment+=("$variable=${!variable}")
    done
    env -i "${environment[@]}" "${isolation[@]}" \
        chroot "$root" sh -c 'cd /root/ptediff && exec "$@"' sh "$@"
}

[ -e "$root/.bootstrapped" ] || timed "debootstrap and gcc" bootstrap
timed "toolchain $toolchain" copy_toolchain
timed "the tree ($tree)" copy_tree
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"

case $until in
    setup)
        timed "cargo xtask setup" in_chroot cargo xtask setup
        timed "cargo xtask setup, network off" in_chroot --network-off cargo xtask setup
        ;;
    run | all)
        timed "cargo xtask run" in_chroot cargo xtask run "${run_arguments[@]}"
        [ "$until" = run ] || timed "cargo xtask test" in_chroot cargo xtask test
        timed "cargo xtask run, network off" in_chroot --network-off cargo xtask run "${run_arguments[@]}"
        [ "$until" = run ] || timed "cargo xtask test, network off" in_chroot --network-off cargo xtask test
        ;;
esac
echo "=== fresh-machine: all done"
