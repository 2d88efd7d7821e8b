"""Trains an ad/game classifier for cents: small frames, a few of them, early stopping.

    ./run_training.sh local                           sets up what is needed, then runs this
    python cost_optimized_train.py --batch-size 16    any constant below can be a flag
    python cost_optimized_train.py --resume           goes on where Ctrl-C or a crash ended it

Videos lie in data/<class>/, for example data/ads and data/games. Results lie in runs/latest.
"""

from contextlib import nullcontext

from cloud.s3 import S3Folder
from training.cross_validation import Retraining
from training.device import choose_device
from training.distributed import join_ranks
from training.embedding import stored_embeddings
from training.loop import Trainer
from training.monitor import Monitor
from training.phases import plan_phases
from training.report import write_report
from training.results import say_results, say_start, write_results
from training.run_log import RunLog, check_writable
from training.tracking import Tracking, check_tracking
from training.weights import new_model, weights_for
from utils.config import read_options
from utils.errors import run_main
from utils.training_data import load_training_data

# Data
DATA_DIR = "data"  # folder, list of files or s3://bucket/prefix; each folder in it is a class
CACHE_DIR = "cache"  # prepared features and embeddings; can be deleted at any time
RUNS_DIR = "runs"  # a folder per training
FPS = 4  # frames kept of each second
FRAME_SIZE = (96, 96)  # height, width of the frames kept
FRAMES = "fast"  # fast skips what no kept frame needs; or exact, keyframes, opencv
CROP_BARS = True  # cut letterbox and pillarbox bars off before scaling
CLIP_SECONDS = 10.0  # length of a clip, what one decision is made on
CLIP_HOP_SECONDS = 5.0  # from the start of a clip to the next one's
LABEL_MARGIN_SECONDS = 0.5  # kept away from where a label of data/recordings begins or ends
SAMPLE_RATE = 16_000  # of the sound, in Hz
N_MFCC = 20  # coefficients kept of each step of sound
MFCC_N_MELS = 32  # mel bands they are made of
VAL_FRACTION = 0.2  # part of the groups held out for validation
MAX_REJECTED = 0.2  # stop when more than this part of the recordings can't be read
WORKERS = 0  # decoding processes; 0 is one per core

# Model
MODEL = "late_fusion"  # or lrcn, a network for each frame and an LSTM over them: order counts
ENCODER = "mobilenet_v2"  # of lrcn's frames; or conv, a small network that learns from scratch
SEQUENCE_FRAMES = 16  # frames of a clip, evenly spaced, that lrcn looks at, whatever its length
LSTM_SIZE = 128  # numbers that lrcn remembers from frame to frame
LSTM_LAYERS = 1  # of lrcn, one on top of another; 0 only averages the frames
AVERAGE_OVER_TIME = True  # lrcn's answer is the mean of all frames' answers, else the last one's
FUSE_SOUND = True  # lrcn uses the sound, too
WEIGHTS = "auto"  # auto, imagenet (insist on them), none, or a .safetensors or .pth file
TRUNK_SIZE = "auto"  # height, width to which frames are enlarged for the trunk; auto: by half
FINE_TUNE_BLOCKS = "auto"  # last blocks of the trunk that learn; auto is 3 on a GPU, 0 without
SOUND_SIZE = 16  # numbers that the sound of a clip is brought down to
DROPOUT = 0.5  # part of the inputs of the head hidden in training
MODALITY_DROPOUT = 0.3  # part of the clips whose sound is hidden in training; half that: picture

# Training
SEED = 42  # of the split, the order, the spans and the first weights
BATCH_SIZE = 8  # clips a step
EPOCHS = 8  # at most; early stopping may end sooner
FROZEN_EPOCHS = 3  # of these, first, on stored embeddings of the frozen trunk
FROZEN_DRAWS = 1  # spans drawn of each clip in such an epoch
TRAIN_FRAMES = 16  # frames of a span that training looks at; validation looks at all
SCRATCH_FRAMES = 8  # the same, where the whole network learns, which costs most
LEARNING_RATE = 2e-4  # highest rate while the trunk is fine-tuned
HEAD_LEARNING_RATE = 2e-4  # highest rate of the heads on the frozen trunk
LSTM_LEARNING_RATE = 1e-3  # the same of lrcn's
SCRATCH_LEARNING_RATE = 1e-3  # highest rate of a network trained from scratch
WARMUP = 0.3  # part of a phase in which the rate rises
WEIGHT_DECAY = 0.01  # pull of the weights towards zero (AdamW)
LABEL_SMOOTHING = 0.0  # part of the label spread over the other classes
PATIENCE = 4  # epochs without a better validation loss before a phase ends
MIXED_PRECISION = True  # bfloat16 or float16 on an NVIDIA GPU
COMPILE = False  # torch.compile the trunk where it learns: minutes first, faster steps then
CHECKPOINT_MINUTES = 5.0  # between savings within an epoch; each epoch's end is saved too

# Judging
FOLDS = "auto"  # parts in which all groups are judged in turn; auto: 5 on a frozen trunk, else 0
LEARNING_CURVE = False  # train on 10, 25, 50 and 100 % of the groups: would more videos help?
MAX_GAME_LOSS = None  # choose thresholds that call so many seconds of game an ad per hour, at most
MIN_RECALL = None  # or thresholds that find this part of the ads, at least
TRACK = False  # log to MLflow; so does setting MLFLOW_TRACKING_URI


def main() -> int:
    options = read_options(globals())
    config = options.config
    check_writable(config.runs_dir)
    check_tracking(config)
    ranks = join_ranks()
    with ranks.in_turn():
        data = load_training_data(config, S3Folder)
        weights, weights_note = weights_for(config)

    device = choose_device()
    model = new_model(config, len(data.classes), weights).to(device)
    phases = plan_phases(config, from_scratch=weights is None, has_gpu=device.type == "cuda")

    description = data.describe(weights_note, from_scratch=weights is None)
    run, monitor, tracking = None, nullcontext(), nullcontext()
    if ranks.is_first:
        resume = options.resume
        run = RunLog.open(resume) if resume else RunLog.create(config, __file__, device)
        say_start(run, config, description, device)
        monitor, tracking = Monitor(run.path("monitor.jsonl")), Tracking(run, config)
    with monitor, tracking:
        embeddings = None
        if phases[0].name == "heads":
            with ranks.in_turn():
                embeddings = stored_embeddings(model, data.prepared, config)
        trainer = Trainer(
            model,
            data.train_set,
            data.val_set,
            config,
            description=description,
            embeddings=embeddings,
            run=run,
            ranks=ranks,
        )
        if options.resume:
            trainer.resume(options.resume, options.notes)
        trainer.fit(phases)
        ranks.leave()
        if run is None:
            return 0
        retraining = Retraining(
            trainer,
            phases,
            lambda: new_model(config, len(data.classes), weights),
            duplicates=data.duplicates,
            left_out=data.left_out,
        )
        metrics = write_results(retraining, description)
        report = write_report(run.folder, thumbnails=data.prepared.thumbnails)
        tracking.finish(metrics)
    say_results(run, metrics, report)
    return 0


if __name__ == "__main__":
    run_main(main)
