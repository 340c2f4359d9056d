"""Training and evaluation, on Accelerate; needs `pip install 'recurrent-attention[train]'`."""

from recurrent_attention.training.ablation import Ablation, ablate
from recurrent_attention.training.answers import Answer, Answers, Stopping
from recurrent_attention.training.calibration import Calibration, calibrate
from recurrent_attention.training.curves import draw_curves
from recurrent_attention.training.evaluation import Evaluation, evaluate
from recurrent_attention.training.fitting import FitResult, fit
from recurrent_attention.training.folder_evaluation import evaluate_folder
from recurrent_attention.training.memory import keep_freed_memory
from recurrent_attention.training.own_pictures import Trained, train
from recurrent_attention.training.parts import Parts, parts_of_folder
from recurrent_attention.training.processes import join_processes
from recurrent_attention.training.proposals import fit_global_head, propose_boxes_for
from recurrent_attention.training.recipe import Recipe
from recurrent_attention.training.report import write_report
from recurrent_attention.training.run_folder import RunFolder

__all__ = [
    "Ablation",
    "Answer",
    "Answers",
    "Calibration",
    "Evaluation",
    "FitResult",
    "Parts",
    "Recipe",
    "RunFolder",
    "Stopping",
    "Trained",
    "ablate",
    "calibrate",
    "draw_curves",
    "evaluate",
    "evaluate_folder",
    "fit",
    "fit_global_head",
    "join_processes",
    "keep_freed_memory",
    "parts_of_folder",
    "propose_boxes_for",
    "train",
    "write_report",
]
