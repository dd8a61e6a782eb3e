# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What the scripts share. Source it after `set -euo pipefail`:
#   . "$(dirname "$(readlink -f "$0")")/lib.sh"
# It defines functions, and makes `set -e` hold in command substitutions too.
shopt -s inherit_errexit

# say TEXT...: one line of progress, on stderr.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# die TEXT...: say what failed and what to do about it, then stop.
die() { printf '%s: error: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# usage: print the comment block at the top of the calling script (after the SPDX line).
usage() { sed -n '/^# SPDX/,/^[^#]/{/^# SPDX/d;/^#/!d;s/^# \{0,1\}//;p}' "$0"; }

# repo_root: the top of the source tree.
repo_root() { dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"; }

# cache_dir: where everything that is expensive to make is kept, outside the tree.
cache_dir() {
  local dir=${MAYFLY_CACHE:-${HOME:-/root}/.cache/mayfly}
  mkdir -p "$dir" || die "cannot create the cache $dir (set MAYFLY_CACHE to a writable directory)"
  (cd "$dir" && pwd -P)
}

# need TOOL...: stop unless every tool is installed. GROUP names the setup group that brings them.
need() {
  local tool
  for tool in "$@"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null ||
      die "$tool is not installed; run: scripts/setup ${GROUP:-}"
  done
}

# hash_of TEXT-OR-FILES: 16 hex digits over stdin.
hash_of() { sha256sum | cut -c1-16; }

# make_once DIR FUNCTION [ARG...]: DIR, made by FUNCTION in a temporary directory ($1 of the function) and renamed into
# place when it is complete; an interrupted run leaves nothing that looks finished. Only one process makes DIR at a time;
# the others wait for it.
make_once() {
  local dir=$1 fd tmp
  shift
  [[ -d $dir ]] && return 0
  mkdir -p "$(dirname "$dir")"
  exec {fd}>"$dir.lock"
  if ! flock -n "$fd"; then
    say "waiting for another process that makes $dir"
    flock "$fd"
  fi
  if [[ ! -d $dir ]]; then
    rm -rf "$dir".tmp.*
    tmp=$dir.tmp.$$
    mkdir "$tmp"
    # shellcheck disable=SC2064
    trap "rm -rf '$tmp'" EXIT
    # Not under `if`, `||` or in a subshell: there, `set -e` would not hold inside the function.
    "$1" "$tmp" "${@:2}"
    mv -T "$tmp" "$dir"
    trap - EXIT
  fi
  exec {fd}>&-
}

# unpack_deb DIR PACKAGE: download a Debian package and unpack it into DIR; nothing is installed.
unpack_deb() {
  local dir=$1 package=$2 deb
  (cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download "$package" >&2) ||
    die "cannot download $package (is apt set up and its list fresh? try: apt-get update)"
  deb=$(ls "$dir"/*.deb)
  dpkg-deb -x "$deb" "$dir" || die "cannot unpack $deb"
  rm -f "$deb"
}

# newest_cloud_kernel: the package that linux-image-cloud-amd64 stands for; nothing where apt does not know it.
newest_cloud_kernel() {
  { apt-cache depends linux-image-cloud-amd64 2>/dev/null || true; } |
    sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1
}

# refresh_lists: small images come with packages and without apt's lists.
refresh_lists() {
  local sudo=()
  [[ $(id -u) -eq 0 ]] || sudo=(sudo)
  say "refreshing the package lists"
  "${sudo[@]}" apt-get -q -o DPkg::Lock::Timeout=600 update >&2 || die "apt-get update failed"
}

# cloud_kernel: the directory with Debian's cloud kernel, unpacked: release, vmlinuz, vmlinux, config and modules/ (the
# contents of /lib/modules/RELEASE, with its dependency lists). It stays at the version that was first fetched;
# remove the directory, or call `scripts/stock_kernel --update`, to fetch anew.
cloud_kernel() {
  local dir
  dir=$(cache_dir)/cloud-kernel
  make_once "$dir" make_cloud_kernel
  echo "$dir"
}

make_cloud_kernel() {
  local dir=$1 package release
  GROUP=lab need apt-get dpkg-deb depmod
  package=$(newest_cloud_kernel)
  if [[ -z $package ]]; then
    refresh_lists
    package=$(newest_cloud_kernel)
  fi
  [[ -n $package ]] || die "apt knows no linux-image-cloud-amd64; this script is written for Debian 12"
  say "fetching $package (about 10 s)"
  mkdir "$dir/deb"
  unpack_deb "$dir/deb" "$package"
  release=$(ls "$dir/deb/lib/modules")
  mv "$dir/deb/boot/vmlinuz-$release" "$dir/vmlinuz"
  mv "$dir/deb/boot/config-$release" "$dir/config"
  find "$dir/deb/lib/modules/$release" -name '*.ko.xz' -exec xz -d {} +
  PATH=$PATH:/sbin:/usr/sbin depmod -b "$dir/deb" "$release"
  mv "$dir/deb/lib/modules/$release" "$dir/modules"
  rm -rf "$dir/deb"
  extract_vmlinux "$dir/vmlinuz" "$dir/vmlinux"
  echo "$release" >"$dir/release"
}

# extract_vmlinux BZIMAGE OUT: the ELF kernel inside a bzImage. Booted by PVH it saves the guest the decompression.
extract_vmlinux() {
  local image=$1 out=$2
  python3 - "$image" "$out" <<'PY' || die "cannot find the ELF kernel inside $image"
import lzma, struct, subprocess, sys, zlib
data = open(sys.argv[1], "rb").read()
# The boot protocol's setup header: sector count, then payload_offset and payload_length (protocol 2.08).
setup = (data[0x1f1] or 4) + 1
offset, length = struct.unpack_from("<II", data, 0x248)
payload = data[setup * 512 + offset:][:length]
if payload[:3] == b"\x1f\x8b\x08":
    elf = zlib.decompressobj(31).decompress(payload)
elif payload[:6] == b"\xfd7zXZ\0":
    elf = lzma.LZMADecompressor().decompress(payload)
elif payload[:4] == b"\x28\xb5\x2f\xfd":
    elf = subprocess.run(["zstd", "-dc"], input=payload, stdout=subprocess.PIPE).stdout
elif payload[:4] == b"\x02\x21\x4c\x18":
    elf = subprocess.run(["lz4", "-dc"], input=payload, stdout=subprocess.PIPE).stdout
else:
    elf = payload
if elf[:4] != b"\x7fELF":
    sys.exit("the payload starts with " + payload[:6].hex())
open(sys.argv[2], "wb").write(elf)
PY
}

# module_list DIR NAME...: the files of the named modules and of all they depend on, in load order, relative to DIR (a
# modules directory). Built-in and unknown names are left out.
module_list() {
  local dir=$1
  shift
  python3 - "$dir" "$@" <<'PY'
import os, sys
root, names = sys.argv[1], sys.argv[2:]
key = lambda path: os.path.basename(path).split(".ko")[0].replace("-", "_")
path_of, needs = {}, {}
for line in open(os.path.join(root, "modules.dep")):
    path, _, rest = line.partition(":")
    path_of[key(path)] = path
    needs[key(path)] = [key(p) for p in rest.split()]
soft = {}
for line in open(os.path.join(root, "modules.softdep")):
    words = line.split()
    if len(words) > 3 and words[0] == "softdep" and words[2] == "pre:":
        soft[words[1].replace("-", "_")] = [w.replace("-", "_") for w in words[3:] if w != "post:"]
aliases = {}
for line in open(os.path.join(root, "modules.alias")):
    words = line.split()
    if len(words) == 3 and "*" not in words[1]:
        aliases.setdefault(words[1].replace("-", "_"), []).append(words[2].replace("-", "_"))
done = []
def add(name):
    name = name.replace("-", "_")
    if name not in path_of:
        # An alias such as crc32c names several implementations: take the generic one.
        for other in sorted(aliases.get(name, []), key=lambda n: "generic" not in n)[:1]:
            add(other)
        return
    if name in done:
        return
    for other in soft.get(name, []) + list(reversed(needs[name])):
        add(other)
    done.append(name)
for name in names:
    add(name)
print("\n".join(path_of[name] for name in done))
PY
}

# run_bazel COMMAND [ARG...]: Bazel with this tree's options, one job for each CPU. CI gets plain lines without a
# progress bar.
run_bazel() {
  GROUP=build need bazel
  local plain=()
  [[ -t 2 ]] || plain=(--curses=no --show_progress_rate_limit=15)
  bazel "$1" --jobs="$(nproc)" "${plain[@]}" "${@:2}"
}
