"""Where the project keeps its models and fixtures."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
FIXTURES = ROOT / "fixtures"
EXTRA = FIXTURES / "extra"
BROKEN = FIXTURES / "broken"
REFERENCES = FIXTURES / "references"
