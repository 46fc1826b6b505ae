"""Every verb there is: importing this registers them all."""

from __future__ import annotations

from . import by_hand as by_hand
from . import faults as faults
from . import faults_outside as faults_outside
from . import machines as machines
from . import restoring as restoring
from .verbs import FAULTS as FAULTS
from .verbs import Fault as Fault
from .wishes import WISHES as WISHES
