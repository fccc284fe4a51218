"""One file a task; ``TASKS`` says which class runs which."""

from edgeport.tasks.base import Pipeline, Runner
from edgeport.tasks.feature_extraction import FeatureExtraction
from edgeport.tasks.fill_mask import FillMask
from edgeport.tasks.question_answering import QuestionAnswering
from edgeport.tasks.sentence_embedding import SentenceEmbedding
from edgeport.tasks.text_classification import TextClassification
from edgeport.tasks.text_generation import TextGeneration
from edgeport.tasks.text_ranking import TextRanking
from edgeport.tasks.token_classification import TokenClassification
from edgeport.tasks.zero_shot_classification import ZeroShotClassification

__all__ = ["TASKS", "Pipeline", "Runner"]

TASKS: dict[str, type[Pipeline]] = {
    "feature-extraction": FeatureExtraction,
    "fill-mask": FillMask,
    "question-answering": QuestionAnswering,
    "sentence-embedding": SentenceEmbedding,
    "text-classification": TextClassification,
    "text-generation": TextGeneration,
    "text-ranking": TextRanking,
    "token-classification": TokenClassification,
    "zero-shot-classification": ZeroShotClassification,
}
