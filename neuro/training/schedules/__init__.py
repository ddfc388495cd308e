"""Learning-rate schedules: one authority that sets the rate, counted in optimizer updates.

`base` has the contract, `decay` what falls once, `cycles` what rises too, and `feedback` what
reacts to the monitored metric.
"""

from neuro.training.schedules.base import FeedbackSchedule as FeedbackSchedule
from neuro.training.schedules.base import Length as Length
from neuro.training.schedules.base import Schedule as Schedule
from neuro.training.schedules.base import Span as Span
from neuro.training.schedules.cycles import SGDR as SGDR
from neuro.training.schedules.cycles import Cyclical as Cyclical
from neuro.training.schedules.cycles import OneCycle as OneCycle
from neuro.training.schedules.cycles import Restarts as Restarts
from neuro.training.schedules.decay import Constant as Constant
from neuro.training.schedules.decay import Cosine as Cosine
from neuro.training.schedules.decay import Exponential as Exponential
from neuro.training.schedules.decay import Linear as Linear
from neuro.training.schedules.decay import Polynomial as Polynomial
from neuro.training.schedules.decay import Rex as Rex
from neuro.training.schedules.feedback import Adaptive as Adaptive
from neuro.training.schedules.feedback import Greedy as Greedy
from neuro.training.schedules.feedback import Plateau as Plateau
