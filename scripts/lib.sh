# shellcheck shell=bash
# Shared by the scripts beside it: what a fresh machine lacks, and how to get it.

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# need COMMAND:PACKAGE...: installs the packages whose command is absent (Debian, Ubuntu).
need() {
    local pair missing=()
    for pair in "$@"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    if [ ${#missing[@]} -eq 0 ]; then return; fi
    need_package "${missing[@]}"
}

# need_package PACKAGE...: installs packages (Debian, Ubuntu).
need_package() {
    local missing=("$@")
    say "installing: ${missing[*]}"
    command -v apt-get >/dev/null || die "this system has no apt-get; install by hand: ${missing[*]}"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "not root and no sudo; as root: apt-get install ${missing[*]}"
        # A script without a terminal cannot answer a question for a password.
        if [ -t 0 ]; then as_root=(sudo); else as_root=(sudo -n); fi
    fi
    {
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update &&
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
                apt-get -qq install -y --no-install-recommends "${missing[@]}"
    } </dev/null >/dev/null || die "could not install; as root: apt-get install ${missing[*]}"
}

need_rust() {
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
    fi
    command -v cargo >/dev/null || die "Rust is absent (1.88 or newer is needed). Either, as https://rustup.rs says:
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh
or, where Debian is new enough: apt-get install cargo rustc"
    local have
    have=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n' 1.88.0 "$have" | sort -V | head -n1)" = 1.88.0 ] ||
        die "Rust $have is too old, 1.88 is needed: rustup update stable"
}

need_fuse() {
    need fusermount3:fuse3
    [ -c /dev/fuse ] || die "/dev/fuse is absent: the kernel's FUSE is not there (modprobe fuse), or a container was
started without it (--device /dev/fuse --cap-add SYS_ADMIN)"
}
