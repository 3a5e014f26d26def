#!/bin/sh
# Runs while the sensor's image is built: puts the include trees of Debian's kernel headers, and nothing else of them, into TARGET/tree, and what
# they came from into TARGET/packages in the form of dpkg's status file (for the SBOM).
#   image_headers.sh VERSION TARGET
# The packages are unpacked, not installed: installed, they would bring a compiler.
set -eu

version=$1 target=$2
arch=$(dpkg --print-architecture)
case $arch in
amd64) kernel_arch=x86 ;;
*) kernel_arch=$arch ;;
esac

apt-get -qq update
# The package without a version names the one of the newest kernel ABI, and its "-common" half stands beside it.
apt-get -qq download "linux-headers-$arch=$version"
meta=$(ls linux-headers-"$arch"_*.deb)
exact=$(dpkg-deb -f "$meta" Version)
flavour=$(dpkg-deb -f "$meta" Depends | sed -n 's/.*\(linux-headers-[0-9][^ ,]*\).*/\1/p')
common=$(echo "$flavour" | sed "s/-$arch\$/-common/")
apt-get -qq download "$flavour=$exact" "$common=$exact"
rm -rf /var/lib/apt/lists/*

mkdir -p "$target/tree/arch/$kernel_arch" unpacked
for package in "$common" "$flavour"; do
    deb=$(ls "$package"_*.deb)
    dpkg-deb -x "$deb" unpacked
    cp -a "unpacked/usr/src/$package/include" "$target/tree/"
    cp -a "unpacked/usr/src/$package/arch/$kernel_arch/include" "$target/tree/arch/$kernel_arch/"
    dpkg-deb -f "$deb" Package Version Architecture Source >>"$target/packages"
    printf 'Status: install ok unpacked\n\n' >>"$target/packages"
done
# Devices of boards, sound and pictures are nothing that a program of ours names. Of config/ only the empty files that make(1) compares.
cd "$target/tree/include"
rm -rf drm dt-bindings linux/mfd media pcmcia rdma scsi soc sound target ufs video
find config -type f -empty -delete
find config -depth -type d -empty -delete
test -e linux/kconfig.h && test -e generated/autoconf.h
