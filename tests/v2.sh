#!/usr/bin/env bash
# Runs tests under Debian's kernel with cgroup version 2 alone, in a virtual machine that needs no KVM: those that depend
# on the version, and those that need more than a build machine's kernel has (AppArmor). Exits as they do.
# Usage: tests/v2.sh [FILTER...], as root; filters choose tests of container-core instead of the lists below.
# Needs qemu-system-x86, linux-image-amd64, kmod, jq and, from PyPI, virtme-ng.
set -euo pipefail
cd "$(dirname "$0")/.."
core=(cgroup:: cgroup_ apparmor start::privileged_too_little_memory start::privileged_cgroup rows::privileged_shares
    threats::privileged_control_groups threats::privileged_foreign_devices)
engine=(limits::privileged)

# In the machine: v2.sh --inside DIRECTORY FILTER...; the directory has a link to each test program.
if [[ ${1-} == --inside ]]; then
    out=$2
    failed=0
    run() {
        local name=$1
        shift
        [[ -e $out/$name ]] || return 0
        "$(realpath "$out/$name")" --nocapture --test-threads=2 "$@" >"$out/$name.out" 2>"$out/$name.err" || failed=1
    }
    for directory in /tmp /var/lib /dev/shm; do mount -t tmpfs none "$directory"; done
    modprobe -a overlay loop bfq veth bridge nf_tables nft_chain_nat nft_masq nft_ct nft_fib_inet br_netfilter zram
    ip link set lo up
    echo 512M >/sys/block/zram0/disksize && mkswap -q /dev/zram0 && swapon /dev/zram0
    run core-lib cgroup::
    run core "${@:3}"
    run engine "${engine[@]}"
    exit $failed
fi

out=$(mktemp -d /var/tmp/v2.XXXXXX)
trap 'rm -rf "$out"' EXIT
build() {
    cargo test --locked --all-features --no-run --message-format=json-render-diagnostics "${@:2}" |
        jq -r 'select(.profile.test == true).executable // empty' | xargs -I{} ln -s {} "$out/$1"
}
build core-lib -p container-core --lib
build core -p container-core --test it
[[ $# != 0 ]] || build engine -p container-engine --test it
[[ $# != 0 ]] || set -- "${core[@]}"
kernel=$(find /boot -name 'vmlinuz-*-amd64' | sort -V | tail -1)
status=0
timeout 1200 vng -r "$kernel" --disable-kvm --memory 4G --cpus 2 --rwdir="$out" \
    -e "REQUIRE_PEERS=${REQUIRE_PEERS-} bash $PWD/tests/v2.sh --inside $out $*" >"$out/console" 2>&1 </dev/null || status=$?
grep -h '^test \|^skipped: \|panicked at' "$out"/*.{out,err} || cat "$out/console"
[[ $status == 0 ]] || tail -n 60 "$out"/*.{out,err}
exit $status
