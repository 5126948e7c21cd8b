#!/usr/bin/env bash
# The image's whole content, made in a folder: `image/root.sh BINARY FOLDER`. The Dockerfile calls it, and so does the
# test that runs the daemon inside of the folder.
#
# Beside the binary: the shared libraries that it names, the certificates of the web's authorities, and a user.
set -euo pipefail
binary=$1 root=$2

install -D --mode 0755 "$binary" "$root/usr/local/bin/gharts-listener"

# Each at the path where the loader looks for it; links are followed.
ldd "$binary" | grep -o '/[^ ]*' | sort -u | while read -r library; do
    install -D --mode 0755 "$library" "$root$library"
done

install -D --mode 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
# Without this the resolver would ask DNS for what the pod's /etc/hosts says.
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
echo 'nonroot:x:65532:65532::/:/nonexistent' >"$root/etc/passwd"
echo 'nonroot:x:65532:' >"$root/etc/group"
install -d --mode 1777 "$root/tmp"

# The same content gives the same layer, whenever it is built.
find "$root" -exec touch --no-dereference --date "@${SOURCE_DATE_EPOCH:-0}" {} +
