"""Trains on AWS: from this machine to a finished model, and never a forgotten instance.

    ./run_training.sh upload BUCKET                   data/ -> s3://BUCKET/data/, what has changed
    ./run_training.sh check BUCKET                    what a run needs on AWS, and the cure
    ./run_training.sh aws BUCKET --dry-run            what it would cost, and every call of AWS
    ./run_training.sh aws BUCKET                      shows the price, asks, trains, fetches, ends
    ./run_training.sh aws BUCKET --script train.py --max-cost 2 -- --epochs 3
    ./run_training.sh status [RUN]                    how far runs are, and what they cost
    ./run_training.sh logs RUN -f                     what the instance prints
    ./run_training.sh fetch RUN                       the results so far -> runs/RUN/
    ./run_training.sh stop RUN                        saves, sends, ends the instance
    ./run_training.sh resume RUN                      attaches again, or goes on where it was
    ./run_training.sh reap                            ends what was left behind, proves the rest

The videos lie under s3://BUCKET/data/, results go to s3://BUCKET/runs/. An instance ends by itself
when the training does, when it fails, hangs or is idle, at --max-hours and at --max-cost; and from
outside, by EventBridge, where it does not. Ctrl-C leaves it running. After a spot interruption the
next instance goes on where the last one was, as long as this stays attached, or with `resume`.

Exit codes: 0 done; 1 failed, or refused before anything was paid for; 2 a mistake in the command;
3 ended early, by `stop` or at a limit; 4 interrupted and not started again; 130 Ctrl-C.
"""

import argparse
import sys
from pathlib import Path

from cloud.aws import CloudError
from cloud.run_record import RunRecord
from utils.errors import Interrupted, UserError, run_main

ROOT = Path(__file__).resolve().parent
SHOWN = 20  # runs in a table
SET_THERE = ("--data-dir", "--cache-dir", "--runs-dir", "--resume")  # by the instance


def main() -> int:
    options = _read_options()
    try:
        return options.verb(options)
    except CloudError as error:
        raise UserError(str(error)) from error
    except KeyboardInterrupt as stop:
        raise Interrupted("stopped here; ./run_training.sh reap shows what runs on AWS") from stop


def run(options: argparse.Namespace) -> int:
    from cloud.launch import begin_run, see_through, start_first
    from cloud.order import dry_run_lines, plan_run
    from cloud.screen import Screen

    screen = Screen()
    planned = plan_run(_order(options))
    for line in planned.lines:
        screen.print(line)
    if options.dry_run:
        for line in ["", *dry_run_lines(planned), "", "nothing was begun"]:
            screen.print(line)
        return 0
    _ask_for_yes(options, screen, f"Start it, for about ${planned.choices[0].dollars:.2f}?")
    begun, ground = begin_run(planned, ROOT, screen)
    attempt = start_first(begun, ground, screen)
    return _attach(options, begun, attempt, screen, see_through)


def check(options: argparse.Namespace) -> int:
    from cloud.account import check_account
    from cloud.rows import print_rows

    rows = check_account(options.bucket, options.region)
    print_rows(rows)
    missing = [row.requirement for row in rows if row.state == "MISSING"]
    if missing:
        print(f"\nA run can't start yet: {', '.join(missing)}. Mend that and check again.")
        return 1
    print(f"\nA run can start; its price: ./run_training.sh aws {options.bucket} --dry-run")
    return 0


def status(options: argparse.Namespace) -> int:
    from cloud.known_runs import known_runs
    from cloud.overview import detail_lines, read_state, table_lines

    if options.run:
        for line in detail_lines(read_state(_record(options))):
            print(line)
        return 0
    known = known_runs(ROOT)
    for line in table_lines(known[:SHOWN]) if known else ["no run on AWS was begun here"]:
        print(line)
    if len(known) > SHOWN:
        print(f"{len(known) - SHOWN} older runs are not shown")
    return 0


def logs(options: argparse.Namespace) -> int:
    from cloud.overview import log_lines

    for line in log_lines(_record(options), follow=options.follow):
        print(line, flush=options.follow)
    return 0


def fetch(options: argparse.Namespace) -> int:
    from cloud.launch import fetch_results
    from cloud.screen import Screen

    return 0 if fetch_results(_known_run(options), ROOT, Screen()) else 1


def stop(options: argparse.Namespace) -> int:
    from cloud.follow import close_attempt
    from cloud.launch import stop_run
    from cloud.screen import Screen

    screen, known = Screen(), _known_run(options)
    attempts = known.record.read_attempts()
    if not attempts:
        screen.say("stop", "this run never had an instance")
        return 0
    last = attempts[-1]
    if last.instance_id and not known.record.read_end(last.number):
        return 0 if stop_run(known, last, ROOT, screen) in (0, 3) else 1
    screen.say("stop", "it has ended already")
    return 0 if close_attempt(known, last, screen) else 1


def resume(options: argparse.Namespace) -> int:
    from cloud.launch import (
        change_limits,
        fetch_results,
        find_live,
        is_done,
        see_through,
        start_next,
    )
    from cloud.screen import Screen

    screen, known = Screen(), _known_run(options)
    known = change_limits(known, max_hours=options.max_hours, max_cost=options.max_cost)
    attempt = find_live(known)
    if attempt:
        screen.say("attach", f"attempt {attempt.number} goes on, on {attempt.instance_id}")
    elif is_done(known):
        screen.say("done", "this run is finished")
        return 0 if fetch_results(known, ROOT, screen) else 1
    else:
        _ask_for_yes(options, screen, f"Start another instance for {options.run}?")
        attempt = start_next(known, screen)
    return _attach(options, known, attempt, screen, see_through)


def reap(options: argparse.Namespace) -> int:
    from cloud.aws import bucket_region, own_region
    from cloud.known_runs import known_runs
    from cloud.reap import Rule, look, proof_lines
    from cloud.reap import reap as end_all

    known = known_runs(ROOT)
    buckets = sorted({options.bucket} - {None} or {one.bucket for one in known})
    regions = {one.region for one in known} | {bucket_region(bucket) for bucket in buckets}
    if options.region or not regions:
        regions = {options.region or own_region()}
    rule = Rule(options.older_than, options.all, {one.run: one.bucket for one in known})
    looked = look(sorted(regions), buckets, rule)
    ended = end_all(looked)
    for found in ended:
        print(f"{found.kind} {found.name} {found.words}: {found.why}: {found.ended}")
    lines, clean = proof_lines(look(sorted(regions), buckets, Rule()) if ended else looked)
    print("\n".join(lines))
    return 0 if clean else 1


def upload(options: argparse.Namespace) -> int:
    from cloud.upload import upload_folder

    sent = upload_folder(Path(options.folder), options.bucket)
    size = f"{sent.files} files, {sent.size_bytes / 1e9:.2f} GB"
    print(f"sent {size} to s3://{options.bucket}/data/; {sent.unchanged} were there already")
    print(f"next: ./run_training.sh aws {options.bucket} --dry-run")
    return 0


def _read_options() -> argparse.Namespace:
    words, overrides = sys.argv[1:], []
    if "--" in words:
        at = words.index("--")
        words, overrides = words[:at], words[at + 1 :]
    parser = argparse.ArgumentParser(
        prog="python train_on_aws.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    one = _add_verb(verbs, run, "plan, ask, start an instance, follow it, fetch what it made")
    one.add_argument("bucket", metavar="BUCKET")
    one.add_argument("--script", default="cost_optimized_train.py", help="[%(default)s]")
    one.add_argument("--instance", metavar="TYPE", help="for example c7i.4xlarge or g4dn.xlarge")
    markets = one.add_mutually_exclusive_group()
    markets.add_argument("--on-demand", action="store_true", help="never on spot")
    markets.add_argument("--spot-only", action="store_true", help="never on demand")
    one.add_argument("--video-hours", type=_positive, metavar="H", help="if their size misleads")
    one.add_argument("--idle-minutes", type=_positive, metavar="M", help="end when idle so long")
    one.add_argument("--dry-run", action="store_true", help="print the plan and begin nothing")
    _add_limits(one)
    _add_attached(one)
    one.epilog = "What follows -- goes to the training script: -- --epochs 3"
    one = _add_verb(verbs, check, "what a run needs on AWS, what was found, the cure")
    one.add_argument("bucket", metavar="BUCKET")
    one = _add_verb(verbs, status, "the runs begun here, or all that is known of one")
    one.add_argument("run", metavar="RUN", nargs="?")
    one = _add_verb(verbs, logs, "what the instances of a run printed")
    one.add_argument("run", metavar="RUN")
    one.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")
    one = _add_verb(verbs, fetch, "the results so far, to runs/RUN/")
    one.add_argument("run", metavar="RUN")
    one = _add_verb(verbs, stop, "save, send, end the instance; resume goes on")
    one.add_argument("run", metavar="RUN")
    one = _add_verb(verbs, resume, "attach to a run, or go on with one that was ended")
    one.add_argument("run", metavar="RUN")
    _add_limits(one)
    _add_attached(one)
    one = _add_verb(verbs, reap, "end what was left behind, and prove that nothing is billed")
    one.epilog = "Exit code 1 where something is still billed, or could not be looked at."
    one.add_argument("--older-than", type=_positive, metavar="H", help="instances of so many hours")
    one.add_argument("--all", action="store_true", help="every instance, also of runs under way")
    one = _add_verb(verbs, upload, "send data/ to s3://BUCKET/data/: what is new or has changed")
    one.add_argument("bucket", metavar="BUCKET")
    one.add_argument("folder", metavar="DIR", nargs="?", default="data", help="[%(default)s]")
    options = parser.parse_args(words)
    options.overrides = overrides
    if overrides and options.verb is not run:
        parser.error("only `run` takes overrides after --")
    return options


def _add_verb(verbs, verb, words: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(verb.__name__, help=words, description=words)
    parser.set_defaults(verb=verb, detach=False)
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--region", help="of AWS [the bucket's]")
    if verb in (status, logs, fetch, stop, resume, reap):
        parser.add_argument("--bucket", help="of runs that were begun elsewhere")
    return parser


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-cost", type=_positive, metavar="DOLLARS", help="of the whole run, all instances"
    )
    parser.add_argument(
        "--max-hours", type=_positive, metavar="H", help="that instances run [3 times the plan]"
    )


def _add_attached(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detach", action="store_true", help="start it and leave; status RUN")
    parser.add_argument("--yes", action="store_true", help="don't ask before it costs something")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _order(options: argparse.Namespace):
    from cloud.order import Order
    from cloud.plan import ON_DEMAND, SPOT, Constraints

    _check_overrides(options.script, options.overrides)
    markets = (ON_DEMAND,) if options.on_demand else (SPOT, ON_DEMAND)
    if options.spot_only:
        markets = (SPOT,)
    return Order(
        bucket=options.bucket.removeprefix("s3://").rstrip("/"),
        script=options.script,
        overrides=tuple(options.overrides),
        region=options.region,
        constraints=Constraints(options.instance, markets, options.max_cost, options.max_hours),
        video_hours=options.video_hours,
        idle_minutes=options.idle_minutes,
    )


def _check_overrides(script: str, overrides: list[str]) -> None:
    """Raises UserError for what the script would refuse ten minutes and some cents later."""
    for word in overrides:
        if word.partition("=")[0] in SET_THERE:
            raise UserError(f"{word} is set on the instance: leave it out")
    path = ROOT / script
    if not path.is_file() or path.parent != ROOT:
        names = " ".join(sorted(found.name for found in ROOT.glob("*train.py")))
        raise UserError(f"there is no script {script} in {ROOT}: it is one of {names}")
    if "read_options(globals())" not in path.read_text():
        return  # its flags are its own
    try:
        from utils.config import read_constants, read_options
    except ModuleNotFoundError:
        return  # this machine has boto3 alone: then the instance says it
    read_options(read_constants(path), overrides)


def _known_run(options: argparse.Namespace):
    from cloud.start import Run

    record = _record(options)
    return Run(record.read_plan(), record)


def _record(options: argparse.Namespace) -> RunRecord:
    from cloud.known_runs import find_run

    known = find_run(ROOT, options.run, options.bucket, options.region)
    return RunRecord(known.bucket, known.run)


def _ask_for_yes(options: argparse.Namespace, screen, question: str) -> None:
    if options.yes:
        return
    if not screen.is_terminal:
        raise UserError("nobody is here to be asked: pass --yes, since this costs money")
    if screen.ask(f"{question} [y/N]") not in ("y", "yes"):
        raise UserError("nothing was begun: it was not answered with y")


def _attach(options: argparse.Namespace, begun, attempt, screen, see_through) -> int:
    from cloud.launch import say_how_to_go_on

    if options.detach:
        say_how_to_go_on(begun, screen)
        return 0
    return see_through(begun, attempt, ROOT, screen)


if __name__ == "__main__":
    run_main(main)
