"""The whole core in virtual time: seeded histories with faults, the promises that must hold in them, and mutants.

A *history* is what happens to a few registries in memory: natives come, go, change, drain and are deployed anew, while
sources fall silent, lie, fail, are restored or swapped, answers get lost, and bridge processes die, freeze and come
back. The real engine runs in it (feeds, store, routes, plans, guard, holds, reconcilers), over `adapters/memory/`.
One seed is one history: it replays event for event.

    python -m tests.simulation                         200 histories
    python -m tests.simulation --seed 17 -v            one, told line by line
    python -m tests.simulation --scenario swapped -v   one that is written by hand
    python -m tests.simulation --scenarios             all of those
    python -m tests.simulation --mutants               every deliberate breakage; one that survives is an error
    python -m tests.simulation --mutant guard-off -v   one of them, and the promise that it breaks
    python -m tests.simulation --migrations 30         histories of migrations
    python -m tests.simulation --holds                 false holds in days without a fault

| module | is |
|---|---|
| `loop` | an event loop in virtual time; a process can be stopped in it as by SIGSTOP |
| `world` | registries with their ground truth, the natives, the operator |
| `client` | whoever reaches the registries for a bridge |
| `commands` | what an operator does while no daemon of a bridge runs: purge, adopt |
| `saying` | what operators say of instances in the place of their sources: `set`, `unset`, `drain` |
| `migrating` | what a process has for migrations: the record at the seat, and what answers gates |
| `moving` | histories of migrations, their promises, and those written by hand |
| `groups` | histories of members that share the writing of one destination, and a mutant for each rule of theirs |
| `process` | one process of a bridge (the real engine), its disk, and what it has truly been told |
| `faults` | the lines between a process and a registry, and the weather on them: lies, lost, late and repeated words |
| `spells` | spells of bad weather: silence, errors, other lives of a store, slow and lost answers ... |
| `history` | what a seed makes happen |
| `scenarios` | histories written by hand, one for each promise that chance finds too seldom |
| `deploys` | days without a fault, in which holds are false |
| `invariants` | the promises, checked against the ground truth at every write, every second and at the end |
| `mutants` | deliberate breakages of the core, each of which some history must find |
| `run` | plays a history: sets up, lets it happen, heals everything, waits for agreement and then for silence |

The promises (I1 to I8 of docs/safety.md): nothing alive is removed (I1), nothing is lost (I2), what
natives hold is untouched (I3), nothing returns to an older value (I4), all converges in bounded time (I5), nothing
inside grows without bound (I6), views are honest about their sources (I7), and all is quiet in the end (I8).
"""
