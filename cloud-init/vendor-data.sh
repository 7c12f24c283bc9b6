#!/bin/sh
# Vendor-data: what a provider gives every machine, beside the user's own user-data. A script, because the lists of a cloud-config
# (write_files, runcmd) are dropped whole when the user's has the same ones; a script is not. What the user wrote stays.
set -eu
mkdir -p /etc/muster
umask 077
[ -e /etc/muster/token ] || cat >/etc/muster/token <<'END'
<replace this line: the output of muster token new>
END
umask 022
[ -e /etc/muster/muster.toml ] || cat >/etc/muster/muster.toml <<'END'
servers = 3
seeds = ["10.0.0.11", "10.0.0.12", "10.0.0.13"]
token-file = "/etc/muster/token"
END
muster config check
systemctl enable --now --no-block muster.service
