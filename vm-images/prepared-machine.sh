#!/usr/bin/env bash
# A prepared machine: Debian 12 with kernel, toolchain and this tree, in which the tests run in place, as a user
# would run them there. Its CPU is QEMU's translator; neither KVM nor a loop device is needed.
#
#   vm-images/prepared-machine.sh make DIRECTORY
#   vm-images/prepared-machine.sh boot DIRECTORY [COMMAND]
#
# make: DIRECTORY is a chroot that `vm-images/fresh-machine.sh --until setup DIRECTORY` has made. Copies the tree as
#   it stands into it, installs a kernel and systemd there, builds ptediff and all tests (the emulated CPU need not),
#   and writes DIRECTORY.ext4. To be repeated after changes of the tree; what is there already is used again.
# boot: starts a machine with `ptediff.vm=1` on its kernel's command line. With COMMAND it runs this in the tree as
#   root, powers off, and exits as COMMAND did. Without, it gives root's shell on the serial console; `poweroff`
#   leaves it. What the machine writes to its disk is forgotten.
#
# Environment of boot: CPUS (1), MEMORY in MiB (2048), and KERNEL_ARGUMENTS, appended to the kernel's command line.
# make needs root, git and e2fsprogs, boot QEMU; the mirror is the one of the chroot's own package sources.
set -euo pipefail

usage() {
    echo "usage: $0 make DIRECTORY | boot DIRECTORY [COMMAND]" >&2
    exit 2
}

[ $# -ge 2 ] || usage
action=$1
repository=$(cd "$(dirname "$0")/.." && pwd)
root=$(realpath "$2")
image=$root.ext4

timed() {
    local title=$1 start status
    shift
    start=$(date +%s)
    echo "=== prepared-machine: $title"
    # Not `||`: it would have the shell go on after a failure inside.
    set +e
    (set -e; "$@")
    status=$?
    set -e
    echo "=== prepared-machine: $title: exit code $status after $(($(date +%s) - start)) s"
    return "$status"
}

in_chroot() {
    local environment=(HOME=/root PATH=/root/.cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb)
    local variable
    for variable in http_proxy https_proxy no_proxy; do
        [ -z "${!variable:-}" ] || environment+=("$variable=${!variable}")
    done
    env -i "${environment[@]}" DEBIAN_FRONTEND=noninteractive \
        chroot "$root" sh -c 'cd /root/ptediff && exec "$@"' sh "$@"
}

# Files that differ are written anew, with the time of now, and the others left alone: cargo goes by times.
copy_tree() {
    local target=$root/root/ptediff fresh file
    mkdir -p "$target"
    # That of another commit, if there is one.
    rm -rf "$target/.git"
    fresh=$(mktemp -d)
    git -C "$repository" ls-files -z --cached --others --exclude-standard |
        tar -C "$repository" --null --files-from=- --ignore-failed-read -c | tar -C "$fresh" -x
    (cd "$target" && find . -path ./target -prune -o -type f -print0) |
        while IFS= read -r -d '' file; do [ -e "$fresh/$file" ] || rm "$target/$file"; done
    (cd "$fresh" && find . -type f -print0) |
        while IFS= read -r -d '' file; do
            cmp -s "$fresh/$file" "$target/$file" || install -D --mode="$(stat -c %a "$fresh/$file")" \
                "$fresh/$file" "$target/$file"
        done
    rm -rf "$fresh"
}

install_packages() {
    local installed
    installed=$(find "$root/boot" -name 'initrd.img-*' | wc -l)
    [ "$installed" -eq 0 ] || return 0
    sed -n 's/ bookworm / bookworm-backports /p' "$root/etc/apt/sources.list" \
        >"$root/etc/apt/sources.list.d/backports.list"
    in_chroot apt-get update -q
    in_chroot apt-get install -q --yes --no-install-recommends systemd-sysv initramfs-tools zstd git
    in_chroot apt-get install -q --yes --no-install-recommends -t bookworm-backports linux-image-cloud-amd64
}

# Root's shell on the serial console; and the command that the kernel's command line asks for.
configure() {
    mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d" "$root/etc/systemd/system/multi-user.target.wants"
    echo ptediff >"$root/etc/hostname"
    cat >"$root/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf" <<'UNIT'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200,57600,38400,9600 %I linux
UNIT
    cat >"$root/etc/systemd/system/ptediff-command.service" <<'UNIT'
[Unit]
Description=The command of the kernel's command line
ConditionKernelCommandLine=ptediff.command
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/ptediff-command
StandardOutput=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=multi-user.target
UNIT
    cat >"$root/usr/local/sbin/ptediff-command" <<'SCRIPT'
#!/bin/bash -l
# Runs the command that stands in base64 on the kernel's command line, says how it ended, and powers off.
export HOME=/root PATH=/root/.cargo/bin:$PATH
command=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^ptediff\.command=//p' | base64 -d)
cd /root/ptediff || exit 1
echo "=== prepared-machine: $(uname -r), $(nproc) CPU: $command"
status=0
# Through a pipe: no progress bars on the console.
set -o pipefail
bash -c "$command" 2>&1 | cat || status=$?
echo "=== prepared-machine: the command ended with $status after $SECONDS s of the machine's time"
systemctl poweroff --no-block
SCRIPT
    chmod +x "$root/usr/local/sbin/ptediff-command"
    # shellcheck disable=SC2016 # $PATH is the machine's.
    echo 'export PATH=/root/.cargo/bin:$PATH; cd /root/ptediff' >"$root/etc/profile.d/ptediff.sh"
    ln -sf /etc/systemd/system/ptediff-command.service "$root/etc/systemd/system/multi-user.target.wants/"
}

write_image() {
    local used
    used=$(du -sm --one-file-system "$root" | cut -f1)
    rm -f "$image"
    # Times are kept: cargo finds everything built.
    mkfs.ext4 -q -F -d "$root" "$image" "$((used + used / 5 + 1024))M"
}

make_image() {
    [ -e "$root/root/.cargo" ] || {
        echo "prepared-machine: $root is no chroot that vm-images/fresh-machine.sh --until setup has made" >&2
        exit 1
    }
    timed "the tree" copy_tree
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    timed "kernel and systemd" install_packages
    timed "cargo build --release" in_chroot cargo build --locked --release --bin ptediff
    timed "cargo test --no-run" in_chroot cargo test --locked --workspace --no-run
    umount --recursive "$root/dev"
    umount "$root/proc"
    configure
    timed "$image" write_image
}

boot_image() {
    local kernel arguments=(root=/dev/vda rw console=ttyS0 panic=-1 ptediff.vm=1)
    kernel=$(find "$root/boot" -name 'vmlinuz-*' | sort -V | tail -n 1)
    if [ $# -gt 0 ]; then
        arguments+=(quiet systemd.show_status=0 systemd.mask=serial-getty@ttyS0.service)
        arguments+=("ptediff.command=$(base64 -w 0 <<<"$*")")
    fi
    local qemu=(qemu-system-x86_64 -accel tcg -cpu max -smp "${CPUS:-1}" -m "${MEMORY:-2048}"
        -nographic -no-reboot -nic none -snapshot -drive "file=$image,if=virtio,format=raw"
        -kernel "$kernel" -initrd "${kernel/vmlinuz/initrd.img}"
        -append "${arguments[*]} ${KERNEL_ARGUMENTS:-}")
    if [ $# -eq 0 ]; then
        exec "${qemu[@]}"
    fi
    local log status
    log=$(mktemp)
    "${qemu[@]}" </dev/null | tee "$log"
    status=$(sed -n 's/^=== prepared-machine: the command ended with \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    rm -f "$log"
    if [ -z "$status" ]; then
        echo "prepared-machine: the machine ended before the command did" >&2
        exit 1
    fi
    exit "$status"
}

case $action in
    make)
        [ $# -eq 2 ] || usage
        # Mounts made here belong to a mount namespace of this script alone and vanish with it.
        if [ -z "${PTEDIFF_PREPARED_MACHINE_INSIDE:-}" ]; then
            export PTEDIFF_PREPARED_MACHINE_INSIDE=1
            exec unshare --mount --propagation private "$0" "$@"
        fi
        make_image
        ;;
    boot)
        shift 2
        timed "boot" boot_image "$@"
        ;;
    *) usage ;;
esac
