"""Every limit of the system: name, value, unit (last in the name) and reason, in one place.

Those that an operator may change are also configuration keys of the same name, lower case.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- callbacks (mechanism: lifetimes, deadlines, leases) ------------------------------------------

# A writer waits this long for other holders' acks, then the silent ones are VENUSDOWN: short enough
# that a dead client is a hiccup, long enough for a busy one on a slow link.
BREAK_DEADLINE_S: Final = 2.0
# The BreakLaterCallBacks worker looks by itself this often, in case a wake-up was missed. Source:
# the 2002 mail.
WORKER_TICK_S: Final = 300.0
# A client trusts promises only this long after it last sent a lease renewal that was answered (I8).
CHANNEL_LEASE_S: Final = 10.0
# Clients renew three times a lease, so that one lost renewal costs nothing.
LEASE_RENEWALS_PER_LEASE: Final = 3
# Two crystal clocks drift apart by less than this; strict coherence waits the lease stretched by
# it.
CLOCK_RATE_ERROR_PPM: Final = 500
# Promises on a file of a read-write volume: (holders at least, seconds), longest list first.
# Source: mechanism §5.
PROMISE_LIFETIMES_S: Final = ((64, 420), (40, 600), (24, 900), (16, 1800), (8, 3600), (0, 14400))
# One promise covers a whole read-only volume. Source: mechanism §5.
READ_ONLY_PROMISE_LIFETIME_S: Final = 7200
# Bulk status counts as this many more holders, so that mass promises are shorter. Source: mechanism
# §5.
BULK_STATUS_EXTRA_HOLDERS: Final = 22
# The server keeps a promise this much longer than it told the client. Source: mechanism §5.
PROMISE_GRACE_S: Final = 180
# Promises in all; beyond it space is made fairly. At about 150 bytes each this bounds the table to
# some 300 MiB.
MAX_PROMISES: Final = 2_000_000
# Promises of one host: a client that caches this many files is large, one that wants more is at
# fault.
MAX_PROMISES_PER_HOST: Final = 1_000_000
# Promises broken at a time to make space: one message to the host that holds most.
EVICTION_BATCH_PROMISES: Final = 1000
# Hosts in all; a host costs a channel (some 40 KiB) as well as its entry.
MAX_HOSTS: Final = 20_000
# Calls of one host that may wait for its own breaks at a time; more are refused, so one silent host
# cannot eat the server (T17).
MAX_WAITING_CALLS_PER_HOST: Final = 64
# Breaks queued for one host; one that lets more pile up within the deadline is marked down and
# reset instead.
MAX_BREAKS_OUTSTANDING_PER_HOST: Final = 4096
# Promises the worker dismantles, and hosts it tells, before it gives the event loop back: about
# half a millisecond of work each.
WORKER_SLICE_PROMISES: Final = 1024
WORKER_SLICE_HOSTS: Final = 8
# The worker begins when the ack that follows the mark has left, at the latest this long after it
# was woken: a client hears of its break no later than it would notice.
ACK_HEAD_START_S: Final = 0.003
# Promises on a volume are dismantled this long after its last host was told: the messages, still on
# their way out, do not compete with it for the event loop.
DISMANTLE_AFTER_S: Final = 0.05
# But no later than this after the first of them, even if volumes are marked again and again
# meanwhile: else nothing would ever be freed.
DISMANTLE_WITHIN_S: Final = 0.5
# FSSync.WatchBreaks looks at most this often who is still to be told: 20,000 hosts take some 10 ms.
WATCH_BREAKS_PAUSE_S: Final = 0.05
# Expired promises are looked for this often: the table is at most this much larger than it need be.
PROMISE_SWEEP_S: Final = 60.0
# Promises looked at in one slice of that: about 1 ms of work.
SWEEP_SLICE_PROMISES: Final = 4096
# A host that has been down this long is forgotten: far beyond every lease, so it trusts nothing of
# ours any more.
HOST_EXPIRY_S: Final = 3600.0

# A channel that says nothing at first is closed after this long.
HELLO_DEADLINE_S: Final = 10.0
# What a client says of itself; for people.
MAX_CLIENT_NAME_CHARS: Final = 128

# --- file locks -----------------------------------------------------------------------------------

# A lock ends by itself unless it is extended: a client that went away holds up others no longer.
# Source: OpenAFS AFS_LOCKWAIT, five minutes.
LOCK_LIFE_S: Final = 300.0
# Clients extend three times a life, so that one lost extension costs nothing.
LOCK_EXTENSIONS_PER_LIFE: Final = 3
# Locks in all and of one host, about 400 bytes each.
MAX_LOCKS: Final = 100_000
MAX_LOCKS_PER_HOST: Final = 20_000
# A call of SetLock waits at most this long: below every deadline of a call.
MAX_LOCK_WAIT_S: Final = 20.0
# A host that comes back within this time after it waited in vain has kept its place.
LOCK_PLACE_KEPT_S: Final = 2.0
# Calls of one host that may wait for locks: they must leave room for others on its connection
# (MAX_CONCURRENT_STREAMS). One more is answered at once.
MAX_LOCK_WAITS_PER_HOST: Final = 256

# --- requests -------------------------------------------------------------------------------------

# Receive limit of every channel: one data piece and its headers, with room.
MAX_MESSAGE_BYTES: Final = 4 * MIB
# Metadata limit: gRPC's own, stated.
MAX_METADATA_BYTES: Final = 16 * KIB
# One piece of FetchData and StoreData; also the size of a chunk on disk.
DATA_PIECE_BYTES: Final = MIB
MAX_BULK_FIDS: Final = 1000
# Files of one BulkFetch; the largest that come with their data; and what one answer has of it: some
# 50 ms of work, and memory that a client can promise for every call.
MAX_BULK_FETCH_FIDS: Final = 256
MAX_BULK_FILE_BYTES: Final = 64 * KIB
MAX_BULK_FETCH_BYTES: Final = 4 * MIB
# Directory entries in one ReadDir message: about 100 KiB.
DIRECTORY_ENTRIES_PER_MESSAGE: Final = 1000
# Source: POSIX NAME_MAX and PATH_MAX, in bytes of UTF-8.
MAX_NAME_BYTES: Final = 255
MAX_SYMLINK_BYTES: Final = 4095
# Symbolic links followed in one path. Source: Linux MAXSYMLINKS.
MAX_SYMLINKS_FOLLOWED: Final = 40
# Volume names. Source: OpenAFS VOLSER_OLDMAXVOLNAME less the suffix ".readonly".
MAX_VOLUME_NAME_BYTES: Final = 22
# Events a slow Watch reader may lag behind before some are dropped and counted.
WATCH_BACKLOG_EVENTS: Final = 10_000

# --- doors ----------------------------------------------------------------------------------------

# Two machines' clocks may differ by this much before a token is too old, or not yet good.
TOKEN_CLOCK_TOLERANCE_S: Final = 60.0
# A token that lives longer is refused, whoever issued it: a revocation must be remembered as long.
MAX_TOKEN_LIFETIME_S: Final = 30 * 24 * 3600
# What `afsctl login` asks for: a working day and the evening. Source: the AFS default of 10-25 h.
TOKEN_LIFETIME_S: Final = 25 * 3600
# A longer token is none: with room for the claims of an outside issuer, below MAX_METADATA_BYTES.
MAX_TOKEN_BYTES: Final = 8 * KIB
# A daemon issues itself a new token for its calls to others when half of this has passed.
DAEMON_TOKEN_LIFETIME_S: Final = 600.0
# A daemon's certificate is renewed well before it ends (`afsctl cell renew`), so that a stolen one
# is worth little for long; the authority's own outlives the hardware.
CERTIFICATE_LIFETIME_S: Final = 30 * 24 * 3600
CA_LIFETIME_S: Final = 10 * 365 * 24 * 3600
# How often a channel looks whether our certificate was renewed.
CERTIFICATE_POLL_S: Final = 60.0
# Files of issuers and revocations are looked at this often: a revocation takes effect so soon.
TRUST_POLL_S: Final = 2.0
# Tokens that were verified are remembered, so that a caller costs one signature and not one a call;
# some 1 KiB each.
VERIFIED_TOKENS_KEPT: Final = 4096
# Whom a token stands for is looked at anew after this long, not with every call: less than anybody
# notices beside TRUST_POLL_S.
CALLER_LIFETIME_S: Final = 0.5
# What groups a caller is in is asked again after this long: an added or removed member counts so
# soon. Source: OpenAFS fileserver, which asks again after 2 hours; people expect less.
MEMBERSHIP_LIFETIME_S: Final = 60.0
# While the protection database cannot be reached, what it said last counts for so long.
MEMBERSHIP_STALE_S: Final = 600.0
# Callers whose groups are remembered; some 1 KiB each.
MEMBERSHIPS_KEPT: Final = 10_000
# Longest a call waits for the protection database.
PROTECTION_DEADLINE_S: Final = 10.0

# Entries of one access list, positive and negative. Source: OpenAFS AFSOPAQUEMAX leaves room for
# 20; a list is part of its directory's row, so this bounds the row to some 3 KiB.
MAX_ACL_ENTRIES: Final = 128
# Files of a directory whose promises are broken one by one when its access list changes, some 10 ms
# of work; of a larger one those on the whole volume are.
ACL_FILES_TOLD_MAX: Final = 4096
# Groups that a user who is no administrator may own. Source: OpenAFS PRGROUPQUOTA.
GROUP_QUOTA: Final = 20
# Groups of one user, members of one group: bounds what a fileserver remembers of a caller.
MAX_GROUPS_OF_USER: Final = 1000
MAX_MEMBERS_OF_GROUP: Final = 5000
# Entries of the protection database in one answer, and names or ids in one question.
MAX_PROTECTION_ENTRIES: Final = 1000

# --- volumes --------------------------------------------------------------------------------------

# Largest quota: 1 EiB, so that quota and use stay exact in 64 bits, in bytes too.
MAX_QUOTA_KIB: Final = 1024 * 1024 * 1024 * MIB
# The message shown while a volume is off-line: a line or two.
MAX_OFFLINE_MESSAGE_BYTES: Final = 1024
# A file larger than this is kept as chunks; smaller ones in the database row: an insert beats a
# file and its fsync.
INLINE_MAX_BYTES: Final = 16 * KIB
# Smaller data than this stay in the volume's database for good: the reference to what lies in a
# pack takes some 140 bytes itself. Part of the schema: another value needs another version.
PACKED_MIN_BYTES: Final = 512
CHUNK_BYTES: Final = DATA_PIECE_BYTES
# Chunk hashes are 32 bytes of the file's vnode row; 16 TiB keeps such a list under 512 MiB.
MAX_FILE_BYTES: Final = 16 * 1024 * 1024 * MIB
MAX_UINT32: Final = 2**32 - 1
# Mutations committed by one transaction: bounds the wait of the first one in it.
GROUP_COMMIT_MAX: Final = 256
# Vnodes kept in memory for each attached volume, about 400 bytes each.
VNODE_CACHE_ENTRIES: Final = 100_000
# Names in one directory: the link count and the directory's length stay 32 bits with room.
MAX_DIRECTORY_ENTRIES: Final = 10_000_000

# --- daemons --------------------------------------------------------------------------------------

# A stopping daemon lets running calls finish this long.
DRAIN_S: Final = 5.0
# Reconnect backoff of every gRPC channel of ours: quick after an outage, not below what slow links
# need.
RECONNECT_MIN_S: Final = 2.0
RECONNECT_MAX_S: Final = 5.0
# Wait before the first reconnect attempt; grows towards RECONNECT_MAX_S with each that fails.
RECONNECT_FIRST_S: Final = 0.1
# A peer that is silent this long is sent an HTTP/2 ping, and is gone if it does not answer in time.
# Longer than the time between two lease renewals, so that an attached client costs no pings; both
# together below the channel lease, so that a dead connection is replaced before the lease ran out.
KEEPALIVE_TIME_S: Final = 5.0
KEEPALIVE_TIMEOUT_S: Final = 3.0
# A client that still sends while its call has failed already is read for at most this long before
# it is answered, less if it is silent for so long.
HEAR_OUT_S: Final = 5.0
HEAR_OUT_SILENCE_S: Final = 0.5
# Calls and streams open at a time on one connection: bounds what one peer can make a server hold
# (I7).
MAX_CONCURRENT_STREAMS: Final = 1024
# Characters of an error's detail that are sent: keeps trailers far below MAX_METADATA_BYTES.
MAX_DETAIL_CHARS: Final = 1024
# Volserver: a transaction that nobody touched this long gives its volume back.
TRANSACTION_IDLE_S: Final = 300.0
# Volserver: an FSSync call that only asks, or takes a volume, waits this long: the fileserver ends
# what it is doing with the volume first, which is short.
FSSYNC_TAKE_DEADLINE_S: Final = 60.0
# A give-back may wait for clients, one dead one after the other, under the policies of 2002.
FSSYNC_GIVE_BACK_DEADLINE_S: Final = 900.0
# How long an operation waits for a fileserver that does not answer, before it says so: a restart
# takes about this long.
FSSYNC_UNREACHABLE_S: Final = 3.0
# How soon, and at most how rarely, the volserver tries again to give a volume back.
GIVE_BACK_RETRY_FIRST_S: Final = 0.1
GIVE_BACK_RETRY_MAX_S: Final = 2.0
# Dumps and restores that run at a time; each holds a thread as long as its client likes.
MAX_STREAMING_TRANSACTIONS: Final = 16
# Pieces of a dump held in memory between a disk and a client that are not equally fast.
DUMP_PIECES_BUFFERED: Final = 4
# Messages of a transfer between volservers, up to some 2 MiB each, that wait for the receiver's
# disk.
TRANSFER_MESSAGES_BUFFERED: Final = 4
# Volserver: how often it asks the location database what becomes of half of a move.
HALF_POLL_S: Final = 1.0
# Volserver: how long the old copy of a volume that moved away is kept for a move back, and how
# often it is looked whether one can go.
REMNANT_LIFETIME_S: Final = 24 * 3600.0
REMNANT_SWEEP_S: Final = 60.0
# Volserver: how often it asks the fileserver for volumes that are damaged, to salvage them; that is
# a list of all volumes, so not all the time.
SALVAGE_POLL_S: Final = 10.0
# Volserver: how often it salvages a volume by itself that is damaged again each time.
SALVAGES_MAX: Final = 3
# Clientd: bytes of file data kept on disk.
CACHE_LIMIT_BYTES: Final = 1024 * MIB
# Clientd: a gap between two turns of its loop longer than this means that the process was frozen;
# promises are then trusted again only after a lease renewal.
STALL_S: Final = 0.5
# Clientd: how often, and how long in all, a call is tried again on VBUSY, VOFFLINE or an
# unreachable server.
RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 1.0
RETRY_TOTAL_S: Final = 30.0
# Clientd: how long after a fileserver went away calls still wait for it before they fail, unless
# they are to wait for ever: a restart takes seconds, and nobody wants to wait for more in vain.
OUTAGE_PATIENCE_S: Final = 30.0
# Clientd: how soon, and at most how rarely, it tries again to store what could not be stored, while
# the fileserver is there: all of the data is sent each time.
UNSENT_RETRY_S: Final = 2.0
UNSENT_RETRY_MAX_S: Final = 60.0
# Clientd: a store that has waited so long for a fileserver that is away is written down, so that
# neither a crash nor an impatient program loses it.
UNSENT_AFTER_S: Final = 2.0
# Clientd: how long a fileserver that has no such volume is asked again where the location database
# says that it has: a volume that is being put in place is there soon.
NO_VOLUME_PATIENCE_S: Final = 2.0
