#!/bin/sh
# Makes the machine that it runs on into a golden image, as root: what packer's builders call, and what a person may run on any
# Debian or Ubuntu machine that is to be captured. It expects /var/tmp/muster, /var/tmp/muster.service,
# /var/tmp/muster-leave.service and, when k3s is to be baked in, /var/tmp/k3s with the release's checksum file. After it the machine is
# to be switched off, not used.
set -eu
cd /

# First boot must be over, or cloud-init writes after the seal. It says 2 for warnings.
if command -v cloud-init >/dev/null; then cloud-init status --wait >/dev/null || [ $? -eq 2 ]; fi

# What reads user-data (Google's Debian is without it), and what the user-data of the clouds calls (docs/images.md).
missing=""
for program in cloud-init nft curl; do
  command -v "$program" >/dev/null && continue
  case $program in nft) missing="$missing nftables" ;; *) missing="$missing $program" ;; esac
done
if [ -n "$missing" ]; then
  apt-get -qq update
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing
  apt-get clean
fi

install -D -m 0755 /var/tmp/muster /usr/local/bin/muster
for unit in muster.service muster-leave.service; do
  install -D -m 0644 "/var/tmp/$unit" "/etc/systemd/system/$unit"
done
if [ -d /var/tmp/k3s ]; then
  install -d -m 0755 /opt/muster/k3s
  for file in k3s k3s-arm64; do
    [ -f "/var/tmp/k3s/$file" ] || continue
    # What is not as its release says, or what its release does not list, does not get in.
    (cd /var/tmp/k3s && grep -h "[ *]$file\$" sha256sum-*.txt | sha256sum --check --quiet) || {
      echo "provision.sh: $file is not what a sha256sum-*.txt beside it says, or none lists it" >&2
      exit 1
    }
    install -m 0755 "/var/tmp/k3s/$file" /opt/muster/k3s/
  done
  install -m 0644 /var/tmp/k3s/sha256sum-*.txt /opt/muster/k3s/
fi
# Enabled and not started: the image's machines start it once they have a configuration.
systemctl daemon-reload
systemctl enable --quiet muster.service

# This machine becomes the image, so its host is prepared as an image's: files only.
muster apply --root /
# Google and Azure make an account `packer` for the build alone, with sudo and no password: it is no user of the image's machines.
if [ "${SUDO_USER:-}" = packer ]; then
  grep -ls '^packer ' /etc/sudoers.d/* | xargs -r rm -f
  # By force, because it is logged in: this runs in its session.
  userdel --force --remove packer
fi
# What writes at its end, or all the time, ends before the seal: the random seed is written when its service stops.
systemctl stop systemd-random-seed.service rsyslog.service systemd-journald.socket systemd-journald-dev-log.socket \
  systemd-journald.service 2>/dev/null || true
muster image seal --root / --this-machine
muster image verify --root /
sync
