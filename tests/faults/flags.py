"""Faults on the command line."""

from tests.faults.fault import DIGITS, FIT, MOCO, Fault
from tests.faults.prepare import file

VIT = "--model.backbone.name timm/vit_tiny_patch16_224 --model.backbone.options"

NAMES = [
    Fault("a misspelt method", "--model SimCRL", "Did you mean 'SimCLR'?", on=FIT),
    Fault("a misspelt data module", "--data CIFAR01", "Did you mean 'CIFAR10'?", on=f"{FIT} --model SimCLR"),
    Fault("a misspelt argument of the method", "--model.temprature 0.2", "Did you mean 'temperature'?"),
    Fault("a misspelt argument inside another", "--model.optim.lrr 1", "Did you mean 'optim.lr'?"),
    Fault("a misspelt argument of the data", "--data.batchsize 8", "Did you mean 'batch_size'?"),
    Fault("a misspelt flag of the Trainer", "--trainer.max_epoch 4", "Did you mean 'trainer.max_epochs'?"),
    Fault("a misspelt section", "--traner.max_epochs 4", "Did you mean 'trainer.max_epochs'?"),
    Fault("a misspelt callback", "--trainer.callbacks+ KNNMonitr", "Did you mean 'KNNMonitor'?"),
    Fault(
        "a second callback of the same name",
        "--trainer.callbacks+ KNNMonitor --trainer.callbacks.k '[10]'",
        "Give one a name of its own, such as --trainer.callbacks.name second.",
    ),
    Fault("a misspelt recipe of views", "--data.views simcrl", "Did you mean 'simclr'?"),
    Fault("a misspelt optimiser", "--model.optim.optimizer adamm", "did you mean 'adam'"),
    Fault("an option that the optimiser lacks", "--model.optim.options '{momentm: 0.9}'", "did you mean 'momentum'?"),
    Fault("a misspelt backbone", "--model.backbone.name resnet81", "did you mean"),
    Fault(
        "an option that the backbone lacks", "--model.backbone.options '{wdth: 4}'", "Change --model.backbone.options."
    ),
    Fault("a misspelt BatchNorm", "--model.batch_norm synch", "did you mean sync?"),
    Fault("a misspelt accelerator", "--trainer.accelerator gpuu", "gpuu"),
    Fault("a misspelt strategy", "--trainer.strategy dpp", "dpp"),
    Fault("a misspelt precision", "--trainer.precision 17", "trainer.precision"),
    Fault("a misspelt subcommand", "", "invalid choice: 'fitt'", on="cli.py fitt"),
    Fault("no subcommand", "", "fit", on="cli.py"),
    Fault("nothing but the subcommand", "", "--model missing", on=FIT),
    Fault(
        "no data", "", "--data missing: give --config FILE, or for example --data CIFAR10.", on=f"{FIT} --model MoCo"
    ),
    Fault(
        "an argument before its class",
        "--model.temperature 1 --model MoCo",
        "--model.temperature needs its class first: --model NAME before it.",
        on=FIT,
    ),
    Fault(
        "data that need a path, without one", "--data ImageFolder", "--data.path missing", on=f"{FIT} --model SimCLR"
    ),
    Fault(
        "an environment variable of the wrong type",
        "",
        "max_epochs",
        environment={"PARALLAX_FIT__TRAINER__MAX_EPOCHS": "many"},
        on=f"{FIT} --model SimCLR --data Digits",
    ),
]

VALUES = [
    Fault(
        "a crop larger than the image", "--data.views '[{count: 2, size: 20, crop_scale: [0.5, 2.0]}]'", "crop_scale"
    ),
    Fault("a word for a number", "--model.optim.lr fast", "optim.lr: Expected a 'float'. Got value: fast"),
    Fault("half an epoch", "--trainer.max_epochs 1.5", "max_epochs is 1.5"),
    Fault("a negative number of epochs", "--trainer.max_epochs -5", "max_epochs"),
    Fault("a negative seed", "--seed_everything -3", "--seed_everything: -3 is not in bounds"),
    Fault("a batch of no images", "--data.batch_size 0", "data.batch_size is 0; it must be at least 1."),
    Fault("a batch larger than the data set", "--data.batch_size 65", "64 training images"),
    Fault("a batch of one image", "--data.batch_size 1 --model.batch_norm split:2", "at least 4"),
    Fault("images of no pixels", "--data.image_size 0", "data.image_size is 0; it must be at least 1."),
    Fault("images too small for the network", "--data.image_size 2", "--data.image_size"),
    Fault("a negative number of workers", "--data.num_workers -1", "num_workers"),
    Fault("no training images wanted", "--data.max_train_images 0", "at least 1"),
    Fault("all labels held out", "--data.held_out 1", "data.held_out is 1.0; it must lie between 0 and 1"),
    Fault("more than all labels", "--data.label_fraction 2", "must lie above 0 and be at most 1"),
    Fault("a mean for another number of channels", "--data.mean [0.5,0.5,0.5]", "give one number for each"),
    Fault("a deviation of 0", "--data.std [0.0]", "std"),
    Fault("a temperature of 0", "--model.temperature 0", "temperature=0.0 must be above 0"),
    Fault("a negative learning rate", "--model.optim.lr -1", "must be >= 0"),
    Fault("a momentum that the optimiser refuses", "--model.optim.options '{momentum: -1}'", "momentum"),
    Fault("a teacher's momentum above 1", "--model.teacher_momentum 1.5", "from 0 to 1", on=MOCO),
    Fault("a queue of no keys", "--model.queue_size 0", "queue_size=0 at least 1", on=MOCO),
    Fault("micro-batches of no images", "--model.micro_batch_size 0", "micro_batch_size 0 must be at least 1"),
    Fault(
        "micro-batches of x images",
        "--model.micro_batch_size x",
        "micro_batch_size is x; allowed is one of: int, null.",
    ),
    Fault("BatchNorm in no groups", "--model.batch_norm split:0", "at least 1, as --model.batch_norm split:8"),
    Fault(
        "BatchNorm in groups of one image",
        "--model.batch_norm split:12",
        "to at least 24",
        on=DIGITS.replace("SimCLR", "BYOL"),
    ),
    Fault("a network without channels", "--model.backbone.options '{width: 0}'", "--model.backbone.options"),
    Fault("a network of negative width", "--model.backbone.options '{width: -1}'", "--model.backbone.options"),
    Fault("no batches per optimiser step", "--trainer.accumulate_grad_batches 0", "must be at least 1"),
    Fault(
        "a report every 0 steps", "--trainer.log_every_n_steps 0", "--trainer.log_every_n_steps 0 must be at least 1"
    ),
    Fault("validation every 0 epochs", "--trainer.check_val_every_n_epoch 0", "must be at least 1"),
    Fault("a share of the batches above 1", "--trainer.limit_train_batches 1.5", "limit_train_batches"),
    Fault(
        "a place for runs that is a file", "--trainer.default_root_dir taken", "taken", prepare=(file("taken", "mine"),)
    ),
]

TOGETHER = [
    Fault("milestones for a cosine", "--model.optim.milestones [1]", "add --model.optim.schedule steps"),
    Fault("steps without milestones", "--model.optim.schedule steps", "steps need rising epochs"),
    Fault(
        "colour images for a network of grey ones",
        "--model.backbone.in_channels 3",
        "set --model.backbone.in_channels 1",
    ),
    Fault("one view for a method that takes two", "--data.views crop_flip", "SimCLR takes 2 global views"),
    Fault("local views for a method that takes none", "--data.views swav", "takes no local views"),
    Fault("a ViT made for larger images", f"{VIT} '{{img_size: 224}}'", "--data.image_size 224"),
    Fault("heads that do not divide the width", f"{VIT} '{{num_heads: 5}}'", "divisible by num_heads"),
    Fault(
        "a convolutional network for MAE",
        "",
        "MAE",
        on=f"{FIT} --model MAE --model.backbone.in_channels 1 "
        "--data Digits --trainer.max_epochs 1 --trainer.accelerator cpu",
    ),
    Fault(
        "cells that the network cannot take",
        "--model.cells_per_side 14",
        "set a smaller --model.cells_per_side",
        on=DIGITS.replace("SimCLR", "FastMoCo"),
    ),
    Fault("weights from nowhere", "--model.backbone.pretrained true", "has no weights to start from"),
    Fault(
        "trained weights for another stem",
        "--model.backbone.name resnet18 --model.backbone.pretrained true --model.backbone.small_images true",
        "Set one of the two, pretrained or small_images",
    ),
    Fault(
        "trained weights for another number of channels",
        "--model.backbone.name resnet18 --model.backbone.pretrained true",
        "made for 3 channels",
    ),
    Fault(
        "the small stem for a network with a deep one",
        "--model.backbone.name timm/resnet26d --model.backbone.small_images true --model.backbone.options '{}'",
        "has no small-image stem",
    ),
]

HARDWARE = [
    Fault("a GPU where there is none", "--trainer.accelerator gpu", "gpu"),
    Fault("two GPUs where there is none", "--trainer.accelerator gpu --trainer.devices 2", "gpu"),
    Fault("a TPU where there is none", "--trainer.accelerator tpu", "torch_xla"),
    Fault("no devices", "--trainer.devices 0", "devices"),
    Fault("a precision that needs a package", "--trainer.precision transformer-engine", "transformer"),
    Fault("DeepSpeed, which is not installed", "--trainer.strategy deepspeed", "deepspeed"),
]
