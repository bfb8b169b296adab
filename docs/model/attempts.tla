------------------------------ MODULE attempts ------------------------------
(* Attempts at one task of Protheon's ledger: one chunk, two brokers that lead one after the other, workers that freeze, thaw and die,
   and a connection that breaks in COMMIT. What the ledger does in one statement is one step; what lies between two statements may last
   for ever. README.md says what is modelled, what is not, and how it is checked. tests/model/attempts.py is the same machine in Python. *)
EXTENDS Naturals, FiniteSets

CONSTANTS
    Workers,        \* {1, 2}
    MaxNo,          \* attempts; the task is dead after the last
    Freezes,        \* of each worker
    Losses,         \* connections that break in COMMIT
    Kills,          \* of all workers together
    \* What the design demands. A broken variant sets one of them to FALSE.
    Fenced,         \* complete, and the look before it, ask for attempt_no
    OneTransaction, \* complete is in the data's transaction
    AsksWhatBecame, \* of an unanswered COMMIT; else the worker loads again and takes "no row" for its own earlier success
    AdvisoryLock,   \* one data transaction of a task at a time
    ExpiresByLease, \* or by what is known to be gone; else by the age of the attempt alone
    ChecksEpoch,    \* a manifest is written by the broker that leads
    EndsBackends    \* an expiry ends what the attempt holds

VARIABLES
    epoch,          \* the broker that leads: 1, then 2
    cut,            \* of each broker: "idle", "cut" (its file is written), "told" (it has tried to write the manifest)
    file,           \* the broker whose file is in the workspace; 0: none
    manifest,       \* the broker whose file the manifest names; 0: there is no chunk yet
    task,           \* "none", "ready", "running", "succeeded", "dead"
    no,             \* attempt_no
    holder,         \* the worker whose attempt is open; 0: none
    out,            \* its lease ran out
    rows,           \* committed copies of the chunk's rows, by attempt
    doomed,         \* an expiry is about to end the backend that holds the task's advisory lock
    tx,             \* the server's data transactions: "none", "open", "completed", "sent", "landed" (the answer is on its way)
    pc,             \* where a worker is
    mine,           \* the attempt that a worker saw or holds
    frozen,         \* a worker stands still
    hurt,           \* frozen or killed since its claim
    needless,       \* a loss was charged to an attempt that nothing had happened to
    freezes, losses, kills   \* what may still go wrong

broker == <<epoch, cut, file, manifest>>
budget == <<freezes, losses, kills>>
vars == <<epoch, cut, file, manifest, task, no, holder, out, rows, doomed, tx, pc, mine, frozen, hurt, needless, freezes, losses, kills>>

HoldsLock == {"open", "completed", "sent"}
Ours(w) == task = "running" /\ no = mine[w] /\ holder = w
Ended == IF no = MaxNo THEN "dead" ELSE "ready"
RowLockedBut(w) == OneTransaction /\ \E v \in Workers \ {w} : tx[v] \in {"completed", "sent"}
RowLocked == RowLockedBut(0)
LockFree == \A v \in Workers : tx[v] \notin HoldsLock

Init ==
    /\ epoch = 1 /\ cut = [b \in {1, 2} |-> "idle"] /\ file = 0 /\ manifest = 0
    /\ task = "none" /\ no = 0 /\ holder = 0 /\ out = FALSE /\ rows = [n \in 1..MaxNo |-> 0] /\ doomed = FALSE
    /\ tx = [w \in Workers |-> "none"] /\ pc = [w \in Workers |-> "idle"] /\ mine = [w \in Workers |-> 0]
    /\ frozen = [w \in Workers |-> FALSE] /\ hurt = [w \in Workers |-> FALSE] /\ needless = FALSE
    /\ freezes = [w \in Workers |-> Freezes] /\ losses = Losses /\ kills = Kills

-----------------------------------------------------------------------------
(* Brokers *)

Cut ==
    /\ cut[epoch] = "idle" /\ manifest = 0
    /\ file' = epoch /\ cut' = [cut EXCEPT ![epoch] = "cut"]
    /\ UNCHANGED <<epoch, manifest, task, no, holder, out, rows, doomed, tx, pc, mine, frozen, hurt, needless>> /\ UNCHANGED budget

Tell(b) ==
    /\ cut[b] = "cut" /\ cut' = [cut EXCEPT ![b] = "told"]
    /\ IF (b = epoch \/ ~ChecksEpoch) /\ manifest = 0
       THEN manifest' = b /\ task' = "ready"
       ELSE UNCHANGED <<manifest, task>>
    /\ UNCHANGED <<epoch, file, no, holder, out, rows, doomed, tx, pc, mine, frozen, hurt, needless>> /\ UNCHANGED budget

\* The new leader adopts the files that the ledger knows and deletes the rest.
TakeOver ==
    /\ epoch = 1 /\ epoch' = 2
    /\ file' = IF manifest = file THEN file ELSE 0
    /\ UNCHANGED <<cut, manifest, task, no, holder, out, rows, doomed, tx, pc, mine, frozen, hurt, needless>> /\ UNCHANGED budget

\* A row that is locked is a completion in progress, and is skipped.
Expire ==
    /\ task = "running" /\ ~RowLocked
    /\ out \/ (pc[holder] = "dead" /\ mine[holder] = no) \/ ~ExpiresByLease
    /\ task' = Ended /\ holder' = 0 /\ out' = FALSE
    /\ needless' = (needless \/ ~hurt[holder])
    /\ doomed' = (EndsBackends /\ ~LockFree)
    /\ UNCHANGED <<no, rows, tx, pc, mine, frozen, hurt>> /\ UNCHANGED broker /\ UNCHANGED budget

\* Whoever works renews in time.
RunOut ==
    /\ task = "running" /\ ~out /\ (frozen[holder] \/ pc[holder] = "dead")
    /\ out' = TRUE
    /\ UNCHANGED <<task, no, holder, rows, doomed, tx, pc, mine, frozen, hurt, needless>> /\ UNCHANGED broker /\ UNCHANGED budget

TerminateNobody ==
    /\ doomed /\ LockFree /\ doomed' = FALSE
    /\ UNCHANGED <<task, no, holder, out, rows, tx, pc, mine, frozen, hurt, needless>> /\ UNCHANGED broker /\ UNCHANGED budget

-----------------------------------------------------------------------------
(* A worker that does not stand still. Its ledger facts first, then its own. *)

ToIdle(w) ==
    /\ pc' = [pc EXCEPT ![w] = "idle"] /\ mine' = [mine EXCEPT ![w] = 0] /\ hurt' = [hurt EXCEPT ![w] = FALSE]
    /\ tx' = [tx EXCEPT ![w] = "none"]
At(w, place, transaction) ==
    pc' = [pc EXCEPT ![w] = place] /\ tx' = [tx EXCEPT ![w] = transaction] /\ UNCHANGED <<mine, hurt>>
SameLedger == UNCHANGED <<task, no, holder, out>>
\* Fenced: where the attempt is not the task's any more, nothing happens.
GiveBack(w) == IF Ours(w) THEN task' = Ended /\ holder' = 0 /\ out' = FALSE /\ UNCHANGED no ELSE SameLedger
Rest == UNCHANGED <<rows, doomed, frozen, needless>> /\ UNCHANGED broker /\ UNCHANGED budget

Renew(w) ==
    /\ pc[w] \notin {"idle", "seen", "dead"} /\ Ours(w) /\ out /\ ~RowLocked
    /\ out' = FALSE /\ UNCHANGED <<task, no, holder, tx, pc, mine, hurt>> /\ Rest

See(w) ==
    /\ pc[w] = "idle" /\ task = "ready"
    /\ pc' = [pc EXCEPT ![w] = "seen"] /\ mine' = [mine EXCEPT ![w] = no] /\ UNCHANGED <<tx, hurt>> /\ SameLedger /\ Rest

Claim(w) ==
    /\ pc[w] = "seen"
    /\ IF task = "ready" /\ no = mine[w]
       THEN /\ task' = "running" /\ no' = no + 1 /\ holder' = w /\ UNCHANGED out
            /\ pc' = [pc EXCEPT ![w] = "working"] /\ mine' = [mine EXCEPT ![w] = no + 1] /\ hurt' = [hurt EXCEPT ![w] = FALSE]
            /\ UNCHANGED tx
       ELSE SameLedger /\ ToIdle(w)
    /\ Rest

Begin(w) ==
    /\ pc[w] \in {"working", "blind"} /\ (LockFree \/ ~AdvisoryLock)
    /\ IF Ours(w) \/ ~Fenced \/ pc[w] = "blind"
       THEN At(w, IF pc[w] = "working" THEN "open" ELSE "blind-open", "open")
       ELSE ToIdle(w)
    /\ SameLedger /\ Rest

Complete(w) ==
    /\ pc[w] \in {"open", "blind-open"}
    /\ \/ tx[w] = "none" /\ GiveBack(w) /\ ToIdle(w)
       \/ tx[w] # "none" /\ ~OneTransaction /\ At(w, "sent", "sent") /\ SameLedger
       \/ /\ tx[w] # "none" /\ OneTransaction /\ ~RowLockedBut(w) /\ SameLedger
          /\ IF Ours(w) \/ ~Fenced \/ pc[w] = "blind-open" THEN At(w, "completed", "completed") ELSE ToIdle(w)
    /\ Rest

Send(w) ==
    /\ pc[w] = "completed"
    /\ IF tx[w] = "none" THEN GiveBack(w) /\ ToIdle(w) ELSE At(w, "sent", "sent") /\ SameLedger
    /\ Rest

Answer(w) ==
    /\ pc[w] = "sent" /\ tx[w] = "landed"
    /\ IF OneTransaction THEN ToIdle(w) ELSE At(w, "after", "none")
    /\ SameLedger /\ Rest

Notice(w) == pc[w] = "sent" /\ tx[w] = "none" /\ At(w, "unsure", "none") /\ SameLedger /\ Rest

CompleteOutside(w) ==
    /\ pc[w] = "after" /\ ToIdle(w)
    /\ IF Ours(w) THEN task' = "succeeded" /\ holder' = 0 /\ out' = FALSE /\ UNCHANGED no ELSE SameLedger
    /\ Rest

Resolve(w) ==
    /\ pc[w] = "unsure"
    /\ IF ~AsksWhatBecame
       THEN At(w, "blind", tx[w]) /\ SameLedger
       ELSE (IF AdvisoryLock THEN LockFree ELSE ~RowLocked) /\ GiveBack(w) /\ ToIdle(w)
    /\ Rest

Restart(w) == pc[w] = "dead" /\ tx[w] = "none" /\ holder # w /\ ToIdle(w) /\ SameLedger /\ Rest

-----------------------------------------------------------------------------
(* The server, and what goes wrong *)

Land(w) ==
    /\ tx[w] = "sent"
    /\ rows' = [rows EXCEPT ![mine[w]] = @ + 1]
    /\ tx' = [tx EXCEPT ![w] = IF pc[w] = "sent" THEN "landed" ELSE "none"]
    /\ IF OneTransaction /\ task = "running" /\ (no = mine[w] \/ ~Fenced)
       THEN task' = "succeeded" /\ holder' = 0 /\ out' = FALSE /\ UNCHANGED no
       ELSE SameLedger
    /\ UNCHANGED <<doomed, pc, mine, frozen, hurt, needless>> /\ UNCHANGED broker /\ UNCHANGED budget

Abort(w) ==
    /\ tx[w] \in HoldsLock /\ (pc[w] = "dead" \/ (tx[w] = "sent" /\ pc[w] = "unsure"))
    /\ tx' = [tx EXCEPT ![w] = "none"]
    /\ UNCHANGED <<doomed, pc, mine, frozen, hurt, needless, rows>> /\ SameLedger /\ UNCHANGED broker /\ UNCHANGED budget

\* After an expiry, whoever is granted the lock; and what is still locked when the grace of a completion is over.
Terminate(w) ==
    /\ tx[w] \in HoldsLock /\ AdvisoryLock
    /\ doomed \/ (EndsBackends /\ task = "running" /\ out /\ tx[w] \in {"completed", "sent"})
    /\ tx' = [tx EXCEPT ![w] = "none"] /\ doomed' = FALSE
    /\ UNCHANGED <<pc, mine, frozen, hurt, needless, rows>> /\ SameLedger /\ UNCHANGED broker /\ UNCHANGED budget

Freeze(w) ==
    /\ ~frozen[w] /\ pc[w] \notin {"idle", "dead"} /\ freezes[w] > 0
    /\ frozen' = [frozen EXCEPT ![w] = TRUE] /\ hurt' = [hurt EXCEPT ![w] = TRUE] /\ freezes' = [freezes EXCEPT ![w] = @ - 1]
    /\ UNCHANGED <<rows, doomed, tx, pc, mine, needless, losses, kills>> /\ SameLedger /\ UNCHANGED broker

Thaw(w) ==
    /\ frozen[w] /\ frozen' = [frozen EXCEPT ![w] = FALSE]
    /\ UNCHANGED <<rows, doomed, tx, pc, mine, hurt, needless>> /\ SameLedger /\ UNCHANGED broker /\ UNCHANGED budget

Kill(w) ==
    /\ pc[w] \notin {"idle", "dead"} /\ kills > 0 /\ kills' = kills - 1
    /\ pc' = [pc EXCEPT ![w] = "dead"] /\ hurt' = [hurt EXCEPT ![w] = TRUE] /\ frozen' = [frozen EXCEPT ![w] = FALSE]
    /\ tx' = [tx EXCEPT ![w] = IF @ = "landed" THEN "none" ELSE @]
    /\ UNCHANGED <<rows, doomed, mine, needless, freezes, losses>> /\ SameLedger /\ UNCHANGED broker

Break(w) ==
    /\ pc[w] = "sent" /\ tx[w] # "none" /\ losses > 0 /\ losses' = losses - 1
    /\ pc' = [pc EXCEPT ![w] = "unsure"] /\ tx' = [tx EXCEPT ![w] = IF @ = "landed" THEN "none" ELSE @]
    /\ UNCHANGED <<rows, doomed, mine, frozen, hurt, needless, freezes, kills>> /\ SameLedger /\ UNCHANGED broker

-----------------------------------------------------------------------------
Working(w) ==
    /\ ~frozen[w]
    /\ Renew(w) \/ See(w) \/ Claim(w) \/ Begin(w) \/ Complete(w) \/ Send(w) \/ Answer(w) \/ Notice(w) \/ CompleteOutside(w) \/ Resolve(w) \/ Restart(w)

Next ==
    \/ Cut \/ (\E b \in {1, 2} : Tell(b)) \/ TakeOver \/ Expire \/ RunOut \/ TerminateNobody
    \/ \E w \in Workers : Working(w) \/ Land(w) \/ Abort(w) \/ Terminate(w) \/ Freeze(w) \/ Thaw(w) \/ Kill(w) \/ Break(w)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
RECURSIVE SumTo(_)
SumTo(n) == IF n = 0 THEN 0 ELSE rows[n] + SumTo(n - 1)
Copies == SumTo(MaxNo)

TypeOK ==
    /\ epoch \in {1, 2} /\ cut \in [{1, 2} -> {"idle", "cut", "told"}] /\ file \in 0..2 /\ manifest \in 0..2
    /\ task \in {"none", "ready", "running", "succeeded", "dead"} /\ no \in 0..MaxNo /\ holder \in Workers \cup {0}
    /\ (task = "running") = (holder # 0) /\ (out => task = "running") /\ doomed \in BOOLEAN
    /\ tx \in [Workers -> {"none", "open", "completed", "sent", "landed"}]
    /\ pc \in [Workers -> {"idle", "seen", "working", "open", "completed", "sent", "after", "unsure", "blind", "blind-open", "dead"}]
    /\ mine \in [Workers -> 0..MaxNo] /\ frozen \in [Workers -> BOOLEAN] /\ hurt \in [Workers -> BOOLEAN]

AtMostOnce == Copies <= 1
RowsAndEndTogether == (Copies > 0) = (task = "succeeded")
NeverSideBySide == Cardinality({w \in Workers : tx[w] \in HoldsLock}) <= 1
NoNeedlessLoss == ~needless
ManifestHasFile == manifest \in {0, file}
\* What has succeeded stays so, and attempt numbers grow by one.
Forward == [][(task = "succeeded" => task' = "succeeded") /\ no' \in {no, no + 1}]_vars
=============================================================================
