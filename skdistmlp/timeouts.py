"""The fixed timeouts, in seconds: one table.

Constants: nobody should have to change them, and each says what set it.
docs/settings.md has the same table; a test compares them.
"""

from collections.abc import Iterator

WORKER_CHECK_S = 2.0
"""Between checks of the cluster during a wait. A check takes one message to the
scheduler; a lost worker is noticed after this long at the latest."""

BUSY_AFTER_S = 5.0
"""For a run to wait for workers that do other work, or for a collection to be computed,
until a line says so."""

CONNECT_PROBE_S = 0.5
"""For a client to find out whether it can connect to a worker directly. A firewall that
drops packets costs this long, once per client and worker."""

CONNECT_PROBE_VALID_S = 60.0
"""For what was found out to count, if the client can connect. Otherwise it counts until
the client is closed."""

SEND_POLL_S = 0.1
"""Between questions whether a worker accepts values, as in Dask."""

RECONNECT_POLL_S = 0.05
"""Between checks whether a client has reconnected to its scheduler. Dask itself decides
when to give up."""

DIAGNOSE_S = 1.0
"""Until an address that has not answered is looked at: a port may refuse connections,
belong to a web server, or be on a host that nobody knows. Repeated as often."""

REFUSED_S = 5.0
"""For a port to refuse connections, since its scheduler may just be starting. Dask
would try for its whole `distributed.comm.timeouts.connect`."""

LOSS_POLL_S = 0.05
"""Between checks whether the scheduler has noticed a lost worker, for at most
`WORKER_CHECK_S`. A peer sees the broken connection before the scheduler does."""

ORPHAN_LOOKS_S = 2.0, 10.0, 60.0
"""After a client disconnects, when its workers are searched for values it has sent:
messages through the scheduler can arrive after the scheduler has noticed the
disconnection."""

ORPHAN_ANSWER_S = 5.0
"""For scheduler and workers to answer requests about orphaned values. Only the clean-up
itself waits for the answer."""

EXIT_RELEASE_S = 1.0
"""For the scheduler to release what is cached on workers when the client's process
ends. If it does not, it notices that the client is gone."""

RELEASE_POLL_S = 0.01
"""Between questions whether it has."""

ROUND_S = 5.0
"""For one round of `engine="peers"`: the first epoch to end after this long also ends
the round. Scheduling a round costs a small part of this."""

MEASURING_TIMEOUT_S = 15.0
"""For other threads to measure and then for the measurement of the workers before a
fit, which takes about half a second if they are free, and a few seconds more if they
have yet to import this package. Without it, a fit is planned by the number of
parameters."""

LOADING_TIMEOUT_S = 60.0
"""For this process and the workers to load the compiled code of the steps that are
measured, in addition to `MEASURING_TIMEOUT_S`. From a cache on disk that takes
about a second, but the first time numba compiles for several, in all processes at
once."""

MEETING_S = 3.0
"""For workers that are measured to connect to each other. All have just answered, so
whoever is not found by then cannot be reached."""

MEASURING_RETRY_S = 60.0
"""For which what has failed is not measured again: it may have taken seconds, and the
fits of a search would all wait for it. Workers that are held take no time to ask."""

MEASURING_POLL_S = 0.005
"""Between looks whether a measurement has ended."""

COPIES_ANSWER_S = 30.0
"""For the last copies of a fit's state to arrive, after workers were lost. If they do
not, the fit begins again."""

RECOVERY_POLL_S = 0.1
"""Between looks for workers that take the place of lost ones."""

SEEN_VALID_S = 300.0
"""Since this process has seen a cluster with enough workers, for a fit to count missing
ones as lost, and to wait for `skdistmlp.recovery-wait`. Otherwise too few workers are a
mistake, which is an error at once."""

MOVE_LOOK_S = 15.0
"""Between looks for a faster plan, with `skdistmlp.elastic`. Each time that workers are
measured, this doubles until the end of the fit."""

PING_ANSWER_S = 2.0
"""For workers to answer a ping before an error names those that did not, to take note
that they should ignore Ctrl-C, or to say what memory they have. A busy worker answers
too, unless its task holds the GIL."""

QUEUE_FIRST_POLL_S = 0.01
"""Until a queued fit first asks whether its workers are free. Each further interval is
half as long again, up to `QUEUE_POLL_S`."""

QUEUE_POLL_S = 0.5
"""Longest interval between these questions: a fit starts at most this long after its
workers are free."""

INTENTION_S = 10.0
"""For workers that a fit has chosen to count as taken before it reserves them: until
then another fit takes others, if there are."""

SILENT_CLIENT_S = 40.0
"""Without a heartbeat from its client, after which a fit loses its reserved workers,
but not before `SILENT_HEARTBEATS` are missing. Heartbeats come every 5 s, less often
while the GIL is held. The scheduler notices most dead clients at once, since their
connections close."""

SCHEDULER_ASLEEP_S = 15.0
"""Without a question from any fit, after which the scheduler assumes that it was asleep
itself and does not count earlier missing heartbeats. Queued fits ask every
`QUEUE_POLL_S`."""

LEAVE_QUEUE_S = 5.0
"""For the scheduler to confirm that a fit has released its workers. If it does not, it
releases them when the client disconnects."""

GARBAGE_AFTER_S = 1.0
"""Between two looks at whether a worker still holds what a failed task was given, or a
shard that nobody needs; if so, it collects garbage. At the first look, Dask has usually
sent the error, which holds the shard and all rows until then."""

GARBAGE_AT_MOST_EVERY_S = 60.0
"""The time between these looks doubles up to this, since each collection takes time."""

MEMORY_FREED_S = 5.0
"""For workers to free what earlier fits held, before a fit that needs the memory is
refused. What a failed one held is freed when garbage is collected."""

MEMORY_POLL_S = 0.5
"""Between looks at whether they have."""

RESUME_S = 2.0
"""For paused workers to return memory that they have freed, and to resume, before a
call goes on without them."""

RESUME_POLL_S = 0.1
"""Between looks at whether they have. Dask's workers look at their memory as often."""

HANDSHAKE_TIMEOUT_S = 30.0
"""For a connecting process to prove that it belongs to the fit. A worker whose task
holds the GIL may take long; an intruder occupies one of `MAX_UNVERIFIED` places for
this long at most."""

PORT_FREE_S = 3.0
"""For the shard of the previous fit to free a fixed port. Its task ends soon after the
fit."""

PORT_POLL_S = 0.05
"""Between attempts to listen on a port that is in use."""

CANCEL_POLL_S = 0.2
"""Between checks of a task that waits, for another shard or for blocks of X, whether it
was cancelled."""

SPIN_S = 3e-4
"""For which a shard polls its sockets before it sleeps until bytes arrive. Waking up
may take 0.1 ms on a virtual machine, half as long as a step of 64-(100) on two workers
(``python -m benchmarks peers``)."""


def fixed_timeouts() -> Iterator[tuple[str, float | tuple[float, ...]]]:
    """Yield the name and the seconds of each fixed timeout."""
    for name, value in list(globals().items()):
        if name.isupper() and name.endswith("_S"):
            yield name, value
