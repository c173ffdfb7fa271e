/*
 * One shard of a destination and the members of a Kafka consumer group that share the writing of it.
 *
 * The group says who *should* write, the lock in the destination's store says who *may*. Every option of a `do` is one
 * step that nothing interrupts; between any two steps the world may freeze, kill or cut off a member. Shards do not
 * touch each other, so one is enough. -DWITHOUT_X leaves one rule out: each is then found (test_group.py).
 *
 * Asserted: nobody writes but the holder of the lock (Store); nothing is removed without a complete picture, nor by who
 * should not write (Member); a shard is handed over only to who has the whole picture, and not by who should keep it
 * (yield). In the end: once the world is calm, the member that the group names holds the lock for ever (served); with
 * Kafka gone for good (-DKAFKA_GONE), whoever holds the shard keeps it (kept).
 */
#define N 3
#ifndef FAULTS
#define FAULTS 3
#endif
#define NOBODY N

mtype = { nothing, add, removal };

/* The world. */
bool broker = true;    /* Kafka answers */
bool cut[N];           /* this member alone does not reach it */
bool frozen[N];        /* stopped, and may wake */
bool hung[N];          /* its event loop stands still for good, its heartbeats go on */
bool dead[N];
bool storeless[N];     /* this member alone does not reach the store, for good */
bool calm;             /* nothing more will happen */
byte faults = FAULTS;  /* that may still happen */

/* The group. */
byte assigned = 0;
byte next = NOBODY;    /* who follows, while `assigned` is asked to let go */
bool left[N];

/* The store. */
byte lock = 0;
bool claim[N];         /* beside the lock, on the lease of its member */
mtype flight[N] = nothing; /* a transaction on its way to the store */

/* What a member believes. */
bool should[N];        /* assigned, as far as it has heard */
bool away[N];          /* no word from the coordinator for a session */
bool whole[N];         /* its picture was complete since it was assigned */
bool unread[N];        /* the topic has what it did not read yet */
bool may[N];           /* holds the lock */

#define TOUCH(i) (broker && !cut[i])
#define AWAKE(i) (!frozen[i] && !hung[i] && !dead[i])
#define STORE(i) (!storeless[i])

/* ---- the rules; each can be left out ---- */
#ifdef WITHOUT_COMPARE           /* a transaction compares the lock */
#define COMPARED(i) true
#else
#define COMPARED(i) (lock == i)
#endif
#ifdef WITHOUT_WHOLE_CLAIM       /* a claim is put by who has the whole picture */
#define READY(i) true
#else
#define READY(i) whole[i]
#endif
#ifdef WITHOUT_AWAY_CLAIM        /* who is away claims nothing */
#define CLAIMS(i) should[i]
#else
#define CLAIMS(i) (should[i] && !away[i])
#endif
#ifdef WITHOUT_KEEPING           /* who should write, and is in touch, ignores claims */
#define YIELDS(i) true
#else
#define YIELDS(i) (!should[i] || away[i])
#endif
#ifdef WITHOUT_WITHDRAWAL        /* a claim ends with the assignment it was put for */
#define WITHDRAWS(i) false
#define CLEAR(i) true
#else
#define WITHDRAWS(i) (!should[i] || away[i])
#define CLEAR(i) !claim[i]
#endif
#ifdef WITHOUT_CARETAKER         /* who should not write, or is away, removes nothing */
#define MAY_REMOVE(i) true
#else
#define MAY_REMOVE(i) (should[i] && !away[i])
#endif
#ifdef WITHOUT_PICTURE           /* a removal rests on a complete picture */
#define COMPLETE(i) true
#else
#define COMPLETE(i) whole[i]
#endif
#ifdef WITHOUT_END               /* that was read to an end asked for after the removal was seen */
#define READ(i) true
#else
#define READ(i) (TOUCH(i) && !unread[i])
#endif
#ifdef WITHOUT_LEASE             /* locks and claims end with their member */
#define ENDS(i) false
#else
#define ENDS(i) (frozen[i] || hung[i] || dead[i] || storeless[i])
#endif
#ifdef WITHOUT_TICK              /* the group's thread stops beside a loop that stands still */
#define SILENT(i) (frozen[i] || dead[i] || cut[i] || left[i])
#else
#define SILENT(i) (frozen[i] || hung[i] || dead[i] || cut[i] || left[i])
#endif
#ifdef WITHOUT_LEAVING           /* who does not reach the store leaves the destination's group */
#define LEAVES(i) false
#else
#define LEAVES(i) (storeless[i] && !left[i])
#endif

#define OTHERS(i) ((i != 0 && claim[0]) || (i != 1 && claim[1]) || (i != 2 && claim[2]))

inline yield(i, c) {
    if
    :: i != 0 && claim[0] -> c = 0
    :: i != 1 && claim[1] -> c = 1
    :: i != 2 && claim[2] -> c = 2
    fi;
    assert(whole[c]);
    assert(!should[i] || away[i]);
    claim[c] = false;
    may[i] = false;
#ifdef WITHOUT_HAND_OVER         /* the lock goes from the holder to the claim in one transaction */
    lock = NOBODY;
#else
    lock = c;
#endif
    c = 0
}

proctype Member(byte i) {
    byte c;
    do
    /* What it hears of the group. An assignment is taken up once the claim of the one before is gone. */
    :: atomic { AWAKE(i) && TOUCH(i) && assigned == i && next == NOBODY && !should[i] && !left[i] && CLEAR(i) ->
        should[i] = true; whole[i] = false; away[i] = false }
    :: atomic { AWAKE(i) && TOUCH(i) && assigned != i && should[i] -> should[i] = false }
    :: atomic { AWAKE(i) && TOUCH(i) && assigned == i && next != NOBODY ->
        should[i] = false; assigned = next; next = NOBODY }
    :: atomic { AWAKE(i) && !TOUCH(i) && !away[i] -> away[i] = true }
    :: atomic { AWAKE(i) && !TOUCH(i) && away[i] && should[i] -> should[i] = false }  /* a client with a deadline */
    :: atomic { AWAKE(i) && TOUCH(i) && away[i] -> away[i] = false }
    :: atomic { AWAKE(i) && LEAVES(i) -> left[i] = true; should[i] = false }
    /* The picture. */
    :: atomic { AWAKE(i) && TOUCH(i) && should[i] && (!whole[i] || unread[i]) -> whole[i] = true; unread[i] = false }
    /* Claims and the lock. */
    :: atomic { AWAKE(i) && STORE(i) && CLAIMS(i) && READY(i) && !claim[i] && lock != i && lock != NOBODY ->
        claim[i] = true }
    :: atomic { AWAKE(i) && STORE(i) && claim[i] && WITHDRAWS(i) -> claim[i] = false }
    :: atomic { AWAKE(i) && STORE(i) && should[i] && !away[i] && lock == NOBODY ->
        lock = i; may[i] = true; claim[i] = false }
#ifdef OUSTS                     /* a lock is taken from who is no member any more, dead or alive (Consul) */
    :: atomic { AWAKE(i) && STORE(i) && TOUCH(i) && claim[i] && CLAIMS(i) && lock < N && lock != i && SILENT(lock) ->
        lock = i; claim[i] = false }
#endif
    :: atomic { AWAKE(i) && STORE(i) && lock == i && !may[i] -> may[i] = true }
    :: atomic { AWAKE(i) && STORE(i) && lock != i && may[i] -> may[i] = false }
    :: atomic { AWAKE(i) && STORE(i) && lock == i && may[i] && flight[i] == nothing && YIELDS(i) && OTHERS(i) ->
        yield(i, c) }
#ifdef WRITES
    :: atomic { AWAKE(i) && may[i] && flight[i] == nothing -> flight[i] = add }
    :: atomic { AWAKE(i) && may[i] && flight[i] == nothing && MAY_REMOVE(i) && COMPLETE(i) && READ(i) ->
        assert(whole[i] && !unread[i]);
        assert(should[i] && !away[i]);
        flight[i] = removal }
#endif
    od
}

/* What is on its way arrives whenever it likes, also from a member that was stopped since. */
proctype Store(byte i) {
    do
    :: atomic { flight[i] != nothing ->
        if
        :: COMPARED(i) && STORE(i) -> assert(lock == i)
        :: else
        fi;
        flight[i] = nothing }
    :: atomic { ENDS(i) && (lock == i || claim[i]) ->
        if
        :: lock == i -> lock = NOBODY
        :: else
        fi;
        claim[i] = false }
    od
}

inline fit(j) {
    if
    :: !SILENT(0) && j != 0 -> j = 0
    :: !SILENT(1) && j != 1 -> j = 1
    :: !SILENT(2) && j != 2 -> j = 2
    fi
}

/* The coordinator gives the shard of who was silent for a session to somebody else, whatever that one believes. */
proctype Group() {
    do
    :: atomic { broker && SILENT(assigned) && (!SILENT(0) || !SILENT(1) || !SILENT(2)) ->
        fit(assigned); next = NOBODY }
    od
}

#define ANY(i) if :: i = 0 :: i = 1 :: i = 2 fi

/* What may happen, FAULTS times; then the world is calm. */
proctype World() {
    byte i;
    byte gone;   /* members lost for good: never all */
    do
    :: atomic { faults > 0 -> faults--; ANY(i);
        if
        :: cut[i] = true
        :: cut[i] = false
        :: unread[0] = true; unread[1] = true; unread[2] = true
        :: broker && next == NOBODY && !SILENT(assigned) && !SILENT(i) && i != assigned -> next = i
        :: skip
#ifndef KAFKA_GONE
        :: frozen[i] = true
        :: frozen[i] = false
        :: broker = false
        :: broker = true
        :: gone < N - 2 && !dead[i] && !hung[i] && !storeless[i] -> gone++;
            if :: dead[i] = true :: hung[i] = true :: storeless[i] = true fi
#endif
        fi;
        i = 0 }
    :: atomic { true ->
        faults = 0; calm = true;
#ifdef KAFKA_GONE
        broker = false;
#else
        broker = true;
        frozen[0] = false; frozen[1] = false; frozen[2] = false;
        cut[0] = false; cut[1] = false; cut[2] = false;
#endif
        break }
    od;
    do
    :: calm      /* time goes on, also where nobody can take a step */
    od
}

init {
    atomic {
        should[0] = true; whole[0] = true; may[0] = true;
        run World(); run Group();
        run Store(0); run Store(1); run Store(2);
        run Member(0); run Member(1); run Member(2)
    }
}

#define SERVED (lock < N && lock == assigned && may[lock] && should[lock] && !away[lock])

ltl served { <>[] SERVED }
ltl kept { <>[] (lock == 0) || <>[] (lock == 1) || <>[] (lock == 2) }
