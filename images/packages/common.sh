# Parts of the packages' scripts that .deb and .rpm share. None of them stops, starts or restarts k3s.

systemd_runs() { [ -d /run/systemd/system ]; }

# A muster that was installed by hand, or by `muster up`, stands before the package's on the path, and its unit hides the package's.
# Both are kept beside, and said. A link stays at the old place in one step: k3s's units, written by the old one, ask there.
take_over() {
  took_over=""
  if [ -f /usr/local/bin/muster ] && [ ! -L /usr/local/bin/muster ]; then
    ln -f /usr/local/bin/muster /usr/local/bin/muster.by-hand
    rm -f /usr/local/bin/.muster.link
    ln -s /usr/bin/muster /usr/local/bin/.muster.link
    mv -fT /usr/local/bin/.muster.link /usr/local/bin/muster
    echo "muster: /usr/local/bin/muster was installed by hand: it is kept as muster.by-hand, and a link to /usr/bin/muster stands in its place"
    took_over=yes
  fi
  for name in muster muster-leave; do
    unit=/etc/systemd/system/$name.service
    wanted=/etc/systemd/system/multi-user.target.wants/$name.service
    if [ -f "$unit" ] && [ ! -L "$unit" ]; then
      mv -f "$unit" "$unit.by-hand"
      # What was enabled stays so; the agent's own is enabled in any case, by what follows.
      if [ -L "$wanted" ]; then
        rm -f "$wanted"
        [ "$name" = muster ] || ln -s "/usr/lib/systemd/system/$name.service" "$wanted"
      fi
      echo "muster: $unit was installed by hand and hid the package's: it is kept as $name.service.by-hand; changes of yours belong in: systemctl edit $name"
      took_over=yes
    fi
  done
}

# k3s's units ask muster before every start. Without the program they would never start again, so they are told not to ask.
gate_off() {
  for service in k3s k3s-agent; do
    unit=/etc/systemd/system/$service.service
    grep -q '^ExecCondition=.*/muster gate ' "$unit" 2>/dev/null || continue
    mkdir -p "$unit.d"
    {
      echo "# Muster was removed. Installed again it takes this file away."
      echo "[Service]"
      echo "ExecCondition="
    } >"$unit.d/90-without-muster.conf"
    echo "muster: $service runs on, and starts from now on without asking muster ($unit.d/90-without-muster.conf)"
  done
  if systemd_runs; then systemctl daemon-reload || true; fi
}

gate_on() {
  for service in k3s k3s-agent; do
    dropin=/etc/systemd/system/$service.service.d
    if [ -e "$dropin/90-without-muster.conf" ]; then
      rm -f "$dropin/90-without-muster.conf"
      rmdir "$dropin" 2>/dev/null || true
    fi
  done
}

# What a removal leaves, in one place for both kinds of package.
left_behind() {
  if [ -L /usr/local/bin/muster ] && [ "$(readlink /usr/local/bin/muster)" = /usr/bin/muster ]; then rm -f /usr/local/bin/muster; fi
  if [ -e /var/lib/muster/host-journal.jsonl ]; then
    echo "muster: what it changed on this host stays changed; the journal in /var/lib/muster can undo it: install again, then muster revert"
  fi
}
