"""The .ekm container: written atomically, mapped, and checked byte by byte before it is used."""

from edgekern.artifact.infos import DTYPES, ArenaPlan, StepInfo, TensorInfo
from edgekern.artifact.manifest import HostStep, Manifest
from edgekern.artifact.model_metadata import ModelMetadata
from edgekern.artifact.program import Program

__all__ = ["DTYPES", "ArenaPlan", "HostStep", "Manifest", "ModelMetadata", "Program", "StepInfo", "TensorInfo"]
