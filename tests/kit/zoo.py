"""Fifty processes that do not want to end: what only the kernel ends for sure.

A shell script, so that every tier, a hand-made namespace and a peer can run the very same.
"""

from __future__ import annotations

#: How many processes are alive soon after the script has said `zoo-open`, at least.
ZOO_PROCESSES = 50

#: Loops that ignore signals, sessions of their own, double forks, orphans, stopped ones, a held pipe,
#: sessions in sessions, and one that forks again and again.
ZOO = r"""
again() { i=0; while [ $i -lt "$1" ]; do i=$((i + 1)); eval "$2"; done; }
again 8 "(trap '' TERM INT HUP; while :; do sleep 30; done) &"
again 6 "setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 30; done' &"
again 5 "(setsid sh -c '(trap \"\" TERM; exec sleep 3600) & exec sleep 3600' >/dev/null 2>&1 &)"
again 4 "sh -c 'sleep 3600 & exit 0' >/dev/null 2>&1"
again 2 "sh -c 'kill -STOP \$\$' &"
(sleep 3600; echo held) &
setsid sh -c 'setsid sh -c "setsid sleep 3600 & wait" & wait' &
(while :; do sleep 0.2 & wait $!; done) &
echo zoo-open
while :; do sleep 30; done
"""
