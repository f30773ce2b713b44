"""Sources of edits: the base of all sources, and those that come with the package."""

from interp_kit.engine.sources.kinds import Add as Add
from interp_kit.engine.sources.kinds import Copy as Copy
from interp_kit.engine.sources.kinds import CopyAttended as CopyAttended
from interp_kit.engine.sources.kinds import Scale as Scale
from interp_kit.engine.sources.kinds import Set as Set
from interp_kit.engine.sources.kinds import Zero as Zero
from interp_kit.engine.sources.named import Mean as Mean
from interp_kit.engine.sources.named import Resample as Resample
from interp_kit.engine.sources.source import Source as Source
