"""flowvid: a video is a continuous-time latent trajectory z(t).

flowvid learns how the latent state moves over several time gaps at once, combines those transition heads into one
multi-scale velocity field, and moves along it with any ODE solver. The same data, networks and budget also train the
rivals: recursive bisection of the time axis, and v-parameterised DDIM.

Notation. Names at every boundary are words; inside bodies the symbols of the paper may stand.

    ==================  =============  =======================================================================
    word                symbol         meaning
    ==================  =============  =======================================================================
    time                t              video time in seconds
    state               z              latent state, ``batch channel height width``
    momentum            p              hidden velocity that one frame does not show
    gap                 delta_k        time span of head k; there are K heads, with positive or negative gaps
    velocity            u_k            average velocity over a gap: u_k ~ (z(t + delta_k) - z(t)) / delta_k
    step                h              time span that a solver takes; a gap belongs to a head, a step to a solver
    weights             w_k(h)         weights of the heads at step h; they sum to one
    drift               f(t, z)        dz/dt
    level               phi            noise level, 0 for data and 1 for noise; the v-angle is phi = level * pi/2
    clean, noise        x_0, eps       the two ends of the noise level
    guidance scale      gamma          how far guidance extrapolates from the unconditional prediction
    ==================  =============  =======================================================================

Video time and noise level are two clocks and never share a word.
"""

__all__ = ["__version__"]

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("flowvid")
except PackageNotFoundError:
    # A source tree on the path works without being installed, and then has no metadata to ask.
    __version__ = "0+uninstalled"
