#!/bin/sh
# Ends what a test run left behind: the processes and network namespaces recorded in its directory.
#
#   reap.sh RUN     waits for the end of its stdin first
#
# Each run starts one with a pipe for stdin and never writes to it. However the run ends, by return,
# panic, Ctrl-C or SIGKILL, the kernel closes the pipe and this script goes to work. The next run
# calls it again for runs whose reaper was killed as well, with nothing on stdin.
run=$1
cat >/dev/null

# SIGKILL in any order: all of it is thrown away, and an API server without its etcd would shrug off
# anything milder. A process counts as ours only by the mark in its environment, because its number
# may have gone to somebody else's by now.
for file in "$run"/processes/*; do
    pid=${file##*/}
    if tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -qxF "HANSE_E2E_RUN=$run"; then
        kill -s KILL -- "-$pid"
    fi
done
for file in "$run"/namespaces/*; do
    if [ -e "$file" ]; then ip netns delete "${file##*/}"; fi
done

# The logs stay for whoever looks into a failure, until the next run; the databases are of no use.
rm -rf "$run"/*/data
