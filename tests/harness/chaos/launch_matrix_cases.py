"""What can happen to `ups launch` on the market, case by case, and how it has to end."""

from __future__ import annotations

import signal

from harness.chaos.launch_matrix_scripts import (
    cheaper_again,
    disturbed,
    ends_itself,
    forced,
    key_in_account,
    key_is_strange,
    killed_and_blind,
    killed_at,
    named,
    named_and_priced,
    next_machine,
    no_credit,
    no_key_in_contract,
    no_machine_twice,
    not_at_fault,
    nothing_concluded,
    offline,
    offline_and_back,
    one_create,
    outbid,
    outbid_and,
    outbid_before_it_runs,
    signalled,
    signalled_at,
    stalled_at,
    switched,
    trained_on_gpu,
    zombie,
)
from harness.chaos.trial import BUDGET_FILE, LONG, Case
from harness.emulators.switches import BROKEN, DROP, EVERY

GONE = {"auto_resume_delay_s": None}
PATIENT = ("--lost-after-s", "30")
ENDLESS = 100_000
BOTH = (False, True)
QUESTIONS = ("search", "show", "list", "destroy", "secrets", "logs")

# ---------------------------------------------------------------------- answers


ANSWERS = (
    Case("undisturbed", "the launch is left alone"),
    Case(
        "429-twice",
        "each endpoint is answered 429 twice",
        faults={"next_status": [(endpoint, 429) for endpoint in QUESTIONS for _ in range(2)]},
    ),
    *(
        Case(
            f"429-often-{endpoint}",
            f"{endpoint} is answered 429 {count} times",
            faults={"next_status": [(endpoint, 429)] * count},
        )
        for endpoint, count in (("search", 4), ("show", 4), ("list", 4), ("create", 1), ("destroy", 6))
    ),
    Case(
        "429-for-minutes",
        "search and list answer 429 longer than one question is repeated",
        faults={"next_status": [("search", 429)] * 8 + [("list", 429)] * 8},
        within_s=700,
    ),
    Case(
        "retry-after",
        "a 429 that carries Retry-After",
        faults={"next_status": [("show", 429)] * 2, "retry_after": True},
    ),
    Case(
        "rate-limits",
        "the documented interval of every endpoint, over a whole run",
        disturbed(outbid),
        {"rate_limit_scale": 1.0} | GONE,
        steps=LONG,
        machines=(2,),
    ),
    Case("500-show", "show answers 500 three times", switched(show_500_times=3), steps=LONG),
    Case(
        "500-everything",
        "each endpoint answers 500 once",
        faults={"next_status": [(it, 500) for it in QUESTIONS]},
    ),
    Case("500-create", "create answers 500", faults={"next_status": [("create", 500)]}),
    *(
        Case(
            f"{status}-everything",
            f"each endpoint answers {status} once, with a page of a proxy",
            faults={"next_status": [(it, status) for it in (*QUESTIONS, "create")], "error_pages": True},
            demand=nothing_concluded,
        )
        for status in (408, 409, 425, 520, 524)
    ),
    *(
        Case(
            f"broken-{name}",
            f"each endpoint answers 200 once, with a body that is {name}",
            faults={"next_status": [(it, name) for it in (*QUESTIONS, "create")]},
            demand=nothing_concluded,
        )
        for name in BROKEN
    ),
    *(
        Case(
            f"broken-reply-to-create-{name}",
            f"a machine is made, and the answer is {name}",
            faults={"break_reply_to_create": name},
            demand=one_create,
        )
        for name in ("empty", "cut", "strange")
    ),
    Case(
        "dropped",
        "each connection is closed once without an answer",
        faults={"next_status": [(it, DROP) for it in QUESTIONS]},
    ),
    Case("slow-answers", "every answer takes a second", faults={"answer_delay_s": 1.0}),
    Case("list-empty", "the list is wrongly empty at the start", faults={"list_empty": 1}),
    Case(
        "list-empty-always",
        "the list is wrongly empty, always",
        disturbed(outbid),
        {"list_empty": EVERY} | GONE,
        steps=LONG,
        machines=(2,),
    ),
    Case("null-start-date", "rows in which the SDK stumbles, twice", faults={"null_start_date": 2}),
    Case(
        "null-start-date-always",
        "rows in which the SDK stumbles, always",
        faults={"null_start_date": EVERY},
        within_s=900,
    ),
    Case(
        "missing-start_date", "rows in which the SDK stumbles", faults={"missing_fields": ["start_date"]}, within_s=900
    ),
    Case("missing-label", "rows lack the label", faults={"missing_fields": ["label"]}),
    Case(
        "missing-extras",
        "rows lack what is only shown",
        faults={"missing_fields": ["status_msg", "dph_total", "machine_id"]},
    ),
    Case(
        "missing-intended_status",
        "rows lack intended_status",
        faults={"missing_fields": ["intended_status"]},
        within_s=900,
    ),
    Case(
        "missing-actual_status", "rows lack actual_status", faults={"missing_fields": ["actual_status"]}, within_s=900
    ),
    Case(
        "missing-is_bid",
        "nobody can say that it is a bid",
        faults={"missing_fields": ["is_bid"]},
        code=1,
        said="on demand",
    ),
)

# ---------------------------------------------------------------------- renting

RENTING = (
    Case("offer-gone", "somebody else was faster: the next offer", faults={"offer_gone": 1}),
    Case("offer-gone-twice", "and once more", faults={"offer_gone": 2}),
    *(
        Case(
            f"lost-reply-{'two' if second else 'one'}",
            f"the reply to create is lost, a second create would {'' if second else 'not '}make a second instance",
            faults={"lose_reply_to_create": 1, "second_create_makes_second_instance": second},
            demand=one_create,
        )
        for second in BOTH
    ),
    Case(
        "lost-reply-list-empty",
        "and the list is wrongly empty after it",
        faults={"lose_reply_to_create": 1, "list_empty": 3},
        demand=one_create,
    ),
    Case(
        "lost-reply-list-blind",
        "the list stays empty for longer than is looked: two at once for a while",
        faults={"lose_reply_to_create": 1, "list_empty": 4},
        machines=(2,),
        most_live=2,
    ),
    Case("low-bid", "the bid is too low, and nothing is left of it", faults={"low_bid": 1}),
    *(
        Case(
            f"low-bid-{status}",
            f"the bid is too low, said with {status}, and a stopped instance is left",
            faults={"low_bid": 1, "low_bid_status": status, "low_bid_ignores_cancel_unavail": True},
            machines=(2,),
        )
        for status in (400, 200)
    ),
    *(
        Case(
            f"no-credit-{status}",
            f"no credit, said with {status}",
            faults={"no_credit": EVERY, "no_credit_status": status},
            code=2,
            machines=(0,),
            said="no credit",
        )
        for status in (400, 402, 200)
    ),
    *(
        Case(
            f"bad-key-{status}",
            f"a key that nobody knows, said with {status}",
            key_is_strange,
            {"bad_key_status": status},
            code=2,
            machines=(0,),
            said="VAST_API_KEY",
        )
        for status in (401, 404)
    ),
    *(
        Case(
            f"account-key{'-shown' if shown else ''}{'-masked' if masked else ''}",
            f"the W&B key is an account variable; rows show it: {shown}; the server masks it: {masked}",
            key_in_account,
            {"account_env_in_extra_env": shown, "mask_secrets": masked},
            demand=no_key_in_contract,
        )
        for shown, masked in ((False, False), (True, False), (False, True), (True, True))
    ),
    Case("price-includes-disk", "dph_total has the disk in it", faults={"dph_total_includes_disk": True}),
    Case("container-key-may-get", "the machine may look at itself", faults={"container_key_may_get": True}),
    Case("on-demand", "no bid is made", arguments=("--on-demand",)),
)

# ---------------------------------------------------------------------- life of a machine

MACHINES = (
    Case(
        "stuck",
        "one machine never leaves loading",
        faults={"stuck_loading": 1},
        arguments=("--boot-timeout-s", "3"),
        machines=(2,),
        demand=no_machine_twice,
    ),
    Case(
        "stuck-always",
        "none ever does",
        faults={"stuck_loading": EVERY},
        arguments=("--boot-timeout-s", "3"),
        code=1,
        machines=(3,),
        demand=no_machine_twice,
        said="3 errors without progress",
    ),
    Case(
        "image-fails",
        "the container of one machine cannot be made",
        faults={"image_fails": 1},
        machines=(2,),
        demand=no_machine_twice,
    ),
    Case(
        "image-fails-always",
        "none can",
        faults={"image_fails": EVERY},
        code=1,
        machines=(3,),
        demand=no_machine_twice,
        said="3 errors without progress",
    ),
    Case(
        "no-cuda",
        "no machine has CUDA",
        arguments=("--set", "runtime.device=cuda"),
        code=1,
        machines=(3,),
        demand=no_machine_twice,
        said="3 errors without progress",
    ),
    Case(
        "no-cuda-auto",
        "no machine has CUDA, and the config says device auto: nobody trains on the processor of a GPU machine",
        arguments=("--set", "runtime.device=auto"),
        code=1,
        machines=(3,),
        demand=no_machine_twice,
        said="had no CUDA device",
    ),
    Case(
        "image-older-torch",
        "the image has an older PyTorch, which the driver fits; the one that is pinned would see no GPU",
        arguments=("--set", "runtime.device=auto"),
        image="2.6.0+cu124",
        demand=trained_on_gpu,
    ),
    Case(
        "image-newer-torch",
        "the PyTorch of the image needs a newer driver",
        arguments=("--set", "runtime.device=auto"),
        image="2.13.0",
        code=1,
        machines=(3,),
        demand=no_machine_twice,
        said="had no CUDA device",
    ),
    Case("slow-boot", "the image takes three seconds", faults={"boot_delay_s": 3.0}),
    *(
        Case(
            f"outbid-{status}-{'flips' if flips else 'keeps'}-{'returns' if returns else 'gone'}",
            f"{status}, intended_status {'flips' if flips else 'stays'}; {'it' if returns else 'never'} comes back",
            cheaper_again(0.5) if returns else disturbed(outbid),
            {"outbid_status": status, "outbid_flips_intended": flips, "auto_resume_delay_s": 0.0 if returns else None},
            ("--lost-after-s", "10") if returns else (),
            steps=LONG,
            machines=(1,) if returns else (2,),
        )
        for status in ("stopped", "exited")
        for flips in BOTH
        for returns in BOTH
    ),
    *(
        Case(
            f"outbid-booting-{status}-{'flips' if flips else 'keeps'}",
            f"outbid while the image is loaded: {status}, intended_status {'flips' if flips else 'stays'}",
            outbid_before_it_runs,
            {"boot_delay_s": 4.0, "outbid_status": status, "outbid_flips_intended": flips} | GONE,
            machines=(2,),
            demand=not_at_fault,
        )
        for status in ("stopped", "exited")
        for flips in BOTH
    ),
    Case(
        "restarting",
        "the machine is shown as restarting for a while, twice",
        switched(next_rows=[{"actual_status": "restarting"}] * 3 + [{}] * 2 + [{"actual_status": "restarting"}] * 3),
        steps=LONG,
    ),
    *(
        Case(
            f"shown-{actual}",
            f"the machine is shown as {actual}, and stays so",
            switched(next_rows=[{"actual_status": actual, "intended_status": intended}] * 7),
            steps=LONG,
            machines=(2,),
            demand=not_at_fault,
        )
        for actual, intended in (("frozen", "frozen"), ("stopped", "stopped"), ("offline", "running"))
    ),
    Case(
        "stands-still",
        "the training stands still without a word, and the heart of the machine beats",
        stalled_at("phase training", until=next_machine),
        arguments=("--stall-max-s", "4"),
        steps=LONG,
        machines=(2,),
        said="in training",
    ),
    *(
        Case(
            f"stands-still-{phase}",
            f"nothing happens any more while {phase}",
            stalled_at(f"phase {phase}", until=next_machine),
            arguments=(flag, "20"),
            machines=(2,),
            said=f"while {phase}",
        )
        for phase, flag in (("installing", "--install-timeout-s"), ("downloading", "--download-timeout-s"))
    ),
    Case(
        "log-without-onstart",
        "the log of the container does not show what the script writes: no phase, no heartbeat, no exit code",
        faults={"logs_show_onstart": False},
        arguments=("--stall-max-s", "2", "--install-timeout-s", "2", "--gone-after-s", "2"),
        steps=LONG,
    ),
    Case(
        "slow-installation",
        "the installation is silent for longer than a training may be",
        stalled_at("phase installing", until=lambda world: world.passed(6)),
        arguments=("--stall-max-s", "2", "--gone-after-s", "4"),
    ),
    Case(
        "processes-gone",
        "every process of the container is dead, and it is shown as running",
        disturbed(lambda world: world.cloud.lose_processes(world.machine.id)),
        arguments=("--gone-after-s", "4"),
        steps=LONG,
        machines=(2,),
        demand=no_machine_twice,
        said="has lost the processes of its job",
    ),
    Case(
        "price-drop-early", "the instance comes back before it is given up", cheaper_again(3.0), {}, PATIENT, steps=LONG
    ),
    Case(
        "price-drop-late",
        "it comes back while it is given back",
        cheaper_again(3.5),
        {"destroy_fails_times": 2},
        steps=LONG,
        machines=(2,),
    ),
    Case(
        "displaced",
        "somebody rents the machine on demand",
        disturbed(lambda world: world.cloud.displace(world.machine.id)),
        steps=LONG,
        machines=(2,),
    ),
    Case(
        "outbid-three-times",
        "each of three machines is outbid",
        lambda world: (step for _ in range(3) for step in disturbed(outbid)(world)),
        GONE,
        steps=LONG,
        machines=(4,),
        within_s=500,
    ),
    Case(
        "offline-alive",
        "the host is cut off, the job on it lives: a zombie writer",
        zombie,
        steps=LONG * 3,
        machines=(2,),
    ),
    Case(
        "offline-alive-unbilled",
        "and its GPU is not billed",
        zombie,
        {"offline_is_billed": False},
        steps=LONG * 3,
        machines=(2,),
    ),
    Case("offline-dead", "the host is gone with its job", offline(kill=True), steps=LONG, machines=(2,)),
    Case(
        "back-online-alive",
        "it is back before it is given up",
        offline_and_back(kill=False, after_s=3),
        {},
        PATIENT,
        steps=LONG,
    ),
    Case(
        "back-online-dead",
        "it is back, and starts the job anew",
        offline_and_back(kill=True, after_s=3),
        {},
        PATIENT,
        steps=LONG,
    ),
    Case(
        "back-online-late",
        "it is back after it was given up",
        offline_and_back(kill=False, after_s=6),
        steps=LONG * 3,
        machines=(2,),
    ),
    Case(
        "destroyed-by-owner",
        "somebody destroys the instance in the console",
        disturbed(lambda world: world.cloud.destroy(world.machine)),
        steps=LONG,
        machines=(2,),
    ),
    Case(
        "stopped-by-owner",
        "somebody stops it there",
        disturbed(lambda world: world.cloud.stop_instance(world.machine)),
        steps=LONG,
        machines=(2,),
    ),
    Case("destroy-fails", "destroy fails three times", faults={"destroy_fails_times": 3}),
    Case(
        "destroy-fails-always",
        "it always does: what stays is named",
        faults={"destroy_fails_times": EVERY},
        code=1,
        left=1,
        demand=named,
        said="is not destroyed",
        within_s=400,
    ),
)

# ---------------------------------------------------------------------- ends

NOWHERE = "wandb-artifact://researcher/ups-pipeline/none:v0/a.hdf5"
ENDS = (
    *(
        Case(
            f"credit-used-up-{'destroyed' if destroys else 'stopped'}",
            f"the credit is used up: the instance is {'destroyed' if destroys else 'stopped'}",
            disturbed(no_credit),
            {"no_credit_destroys": destroys},
            steps=LONG,
            code=2,
            said="credit",
        )
        for destroys in BOTH
    ),
    *(
        Case(
            f"refused-{status}-{count}",
            f"{count} answers {status} in the middle of the run",
            forced(*[("show", status)] * count),
            steps=LONG,
            said="refused with a key that was good before",
        )
        for status in (401, 403)
        for count in (1, 5)
    ),
    *(
        Case(
            f"refused-between-{endpoint}",
            f"{endpoint} is refused once, between two machines",
            outbid_and(next_status=[(endpoint, 403)]),
            GONE,
            steps=LONG,
            machines=(2,),
            said="refused with a key that was good before",
        )
        for endpoint in ("search", "create")
    ),
    *(
        Case(
            f"locked-out-{status}",
            f"{status} to everything from the middle of the run on: what is left is named, and ends by itself",
            switched(auth_error=status),
            arguments=("--refused-after-s", "3"),
            steps=LONG * 6,
            code=1,
            left=1,
            said="VAST_API_KEY",
            demand=ends_itself,
        )
        for status in (401, 403, 404)
    ),
    Case(
        "training-fails",
        "the same error on every machine",
        arguments=("--set", "stages.operator.lr=1"),
        code=1,
        machines=(2,),
        said="exit code 1, the same error twice at",
    ),
    Case(
        "bad-input",
        "what no machine can cure: a data file that is nowhere",
        arguments=("--set", f"data.downloads=[{{url: '{NOWHERE}', sha256: '{'0' * 64}'}}]"),
        code=1,
        said="exit code 2, bad input",
    ),
    Case(
        "no-auto-shutdown",
        "the machine is left, as asked",
        arguments=("--no-auto-shutdown",),
        left=1,
        demand=named_and_priced,
    ),
    Case(
        "keep-on-failure",
        "the failed machine is left, as asked",
        arguments=("--keep-on-failure", "--set", "stages.operator.lr=1"),
        code=1,
        left=1,
        demand=named_and_priced,
    ),
    Case(
        "max-hours", "the time is over", arguments=("--max-hours", "0.009"), steps=ENDLESS, code=1, said="--max-hours"
    ),
    Case(
        "too-little-money",
        "not even the start of one machine fits into the budget",
        arguments=("--max-total-cost", "0.0014"),
        code=2,
        machines=(0,),
        said="the start of one machine alone costs",
    ),
    Case(
        "budget-file",
        "what all launches may spend together is spent",
        arguments=("--budget-file", BUDGET_FILE),
        steps=ENDLESS,
        code=1,
        said="in all are spent",
    ),
    Case(
        "sigterm",
        "SIGTERM in the middle of the run",
        signalled(signal.SIGTERM),
        steps=LONG,
        code=75,
        said="stopped by a signal",
    ),
    Case(
        "sigint",
        "Ctrl-C in the middle of the run",
        signalled(signal.SIGINT),
        steps=LONG,
        code=75,
        said="stopped by a signal",
    ),
    *(
        Case(
            f"sigterm-at-{endpoint}",
            f"SIGTERM while {endpoint} is answered",
            signalled_at(endpoint),
            code=75,
            machines=(count,),
            said="stopped by a signal",
        )
        for endpoint, count in (("search", 0), ("create", 1), ("show", 1))
    ),
)

# ---------------------------------------------------------------------- the controller is killed

KILLED = (
    *(
        Case(
            f"killed-{'after' if acted else 'before'}-{name}",
            f"kill -9 at {name}, {'after' if acted else 'before'} the server acts; started again",
            killed_at((endpoint, nth), acted=acted),
            steps=LONG if nth > 2 else 10,
        )
        for name, endpoint, nth in (
            ("secrets", "secrets", 1),
            ("list", "list", 1),
            ("search", "search", 1),
            ("create", "create", 1),
            ("first-show", "show", 1),
            ("later-show", "show", 8),
            ("logs", "logs", 3),
            ("destroy", "destroy", 1),
            ("last-list", "list", 2),
        )
        for acted in BOTH
    ),
    Case(
        "killed-twice-create",
        "kill -9 after create, and at the list of the next life",
        killed_at(("create", 1), ("list", 2), acted=True),
    ),
    Case(
        "killed-list-empty",
        "kill -9 after create, and the list of the next life is wrongly empty",
        killed_and_blind,
    ),
    Case(
        "killed-everywhere",
        "kill -9 at one request after another",
        killed_at(
            ("secrets", 1),
            ("list", 1),
            ("search", 1),
            ("create", 1),
            ("show", 1),
            ("show", 4),
            ("destroy", 1),
            acted=True,
        ),
        steps=LONG,
        within_s=500,
    ),
)

CASES: tuple[Case, ...] = (*ANSWERS, *RENTING, *MACHINES, *ENDS, *KILLED)
