#!/bin/sh
# Runs tests on Debian's kernel in an emulated machine: tests/other_kernel.sh ARCH [pytest options].
# ARCH is amd64 or arm64. That kernel has cgroup version 2. An emulated processor is some ten times
# slower: a test whose program has little time may fail for that. Tests that need numpy are skipped.
#
# Needs root, the network, Debian's debootstrap, cpio and qemu-system-x86 or qemu-system-arm, for
# arm64 g++-aarch64-linux-gnu, and pybind11 for PYTHON. Keeps 1.5 GB in build/kernel-ARCH.
set -eu
cd "$(dirname "$0")/.."
ARCH=$1
shift
[ $# -gt 0 ] || set -- tests/sandbox tests/attacks
case $ARCH in
  amd64) CPU=x86_64 COMPILER=g++ MACHINE="-M q35 -cpu max" CONSOLE=ttyS0 ;;
  arm64) CPU=aarch64 COMPILER=aarch64-linux-gnu-g++
    MACHINE="-M virt -cpu max,pauth-impdef=on" CONSOLE=ttyAMA0 ;;
  *) echo "ARCH is $ARCH; it must be amd64 or arm64" >&2; exit 2 ;;
esac
OUT=build/kernel-$ARCH
ROOT=$OUT/root

# Packages are only unpacked: nothing of theirs has to run here.
if [ ! -e "$OUT/unpacked" ]; then
  rm -rf "$OUT" && mkdir -p "$OUT"
  debootstrap --arch="$ARCH" --foreign --variant=minbase --include=busybox-static,"linux-image-$ARCH",\
python3,python3-pytest,python3-hypothesis,python3-yaml,python3-rich,libpython3.11-dev,util-linux \
    bookworm "$ROOT" http://deb.debian.org/debian
  for package in "$ROOT"/var/cache/apt/archives/*.deb; do dpkg -x "$package" "$ROOT"; done
  touch "$OUT/unpacked"
fi

# The checkout, with the extension for that machine's Python.
WORK=$ROOT/work/main
rm -rf "$WORK" && mkdir -p "$WORK" "$OUT/objects"
git ls-files | cpio --quiet -pdm "$WORK"
FLAGS="-std=c++20 -O2 -fPIC -Icsrc -fvisibility=hidden -isystem $ROOT/usr/include/python3.11
  -isystem $ROOT/usr/include -isystem $(${PYTHON:-python3} -c 'import pybind11
print(pybind11.get_include())')"
# shellcheck disable=SC2086
ls csrc/*.cpp csrc/*/*.cpp | xargs -P 2 -I{} sh -c \
  "$COMPILER $(echo $FLAGS) -c {} -o $OUT/objects/\$(basename {}).o"
SUFFIX=cpython-311-$CPU-linux-gnu.so
$COMPILER -shared "$OUT"/objects/*.o -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL \
  -o "$WORK/sandbox/_launcher.$SUFFIX"
$COMPILER $FLAGS -shared -fno-exceptions -fno-rtti csrc/worker/preload/arena_preload.cpp \
  -o "$WORK/sandbox/_arena_preload.$SUFFIX"

# A first process that mounts all that, and a second that runs the tests.
FIRST=$OUT/first
rm -rf "$FIRST" && mkdir -p "$FIRST/bin" "$FIRST/proc" "$FIRST/dev" "$FIRST/new" "$FIRST/modules"
cp "$ROOT/bin/busybox" "$FIRST/bin"
MODULES="virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci netfs fscache
  9pnet 9pnet_virtio 9p"
for module in $MODULES; do  # some are part of the kernel
  find "$ROOT/lib/modules" -name "$module.ko" -exec cp {} "$FIRST/modules" \;
done
cat > "$FIRST/init" <<END
#!/bin/busybox sh
busybox() { /bin/busybox "\$@"; }
busybox mount -t proc proc /proc
for module in $(echo $MODULES); do
  [ ! -e /modules/\$module.ko ] || busybox insmod /modules/\$module.ko
done
busybox mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,msize=512000 root /new
busybox mount -t proc proc /new/proc
busybox mount -t sysfs sysfs /new/sys
busybox mount -t devtmpfs devtmpfs /new/dev
busybox mkdir -p /new/dev/shm
busybox mount -t tmpfs tmpfs /new/dev/shm
busybox mount -t tmpfs tmpfs /new/tmp
busybox mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
busybox ip link set lo up
exec /bin/busybox switch_root /new /bin/sh /work/second
END
chmod +x "$FIRST/init"
(cd "$FIRST" && find . | cpio --quiet -o -H newc | gzip -1) > "$OUT/first.gz"
cat > "$ROOT/work/second" <<END
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
cd /work/main
python3.11 -m pytest -q -rs -p no:cacheprovider --color=no --continue-on-collection-errors $@
echo \$? > /work/status
sync
echo o > /proc/sysrq-trigger
sleep 10
END
echo "the machine did not come to its end" > "$ROOT/work/status"
# shellcheck disable=SC2086
qemu-system-$CPU $MACHINE -accel tcg -smp 2 -m 3G -nographic -no-reboot -nic none \
  -kernel "$(ls "$ROOT"/boot/vmlinuz-*)" -initrd "$OUT/first.gz" \
  -append "console=$CONSOLE quiet panic=-1" \
  -virtfs "local,path=$ROOT,mount_tag=root,security_model=none,multidevs=remap" < /dev/null
read -r STATUS < "$ROOT/work/status"
echo "pytest ended with status $STATUS"
[ "$STATUS" = 0 ]
