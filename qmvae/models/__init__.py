"""One file a model; MODELS names them as params.yaml does."""

from qmvae.models.base import MultimodalVAE
from qmvae.models.dmvae import DMVAE
from qmvae.models.mmvae import MMVAE
from qmvae.models.mvae import MVAE
from qmvae.models.qmvae import QMVAE

MODELS: dict[str, type[MultimodalVAE]] = {"qmvae": QMVAE, "mvae": MVAE, "mmvae": MMVAE, "dmvae": DMVAE}
