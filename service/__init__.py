"""A lightweight job service for AI models, on RQ: what a model file may import."""

from service.job import job, jobs
from service.model import Fatal, Retry, model
from service.progress import progress

__all__ = ["Fatal", "Retry", "job", "jobs", "model", "progress"]
