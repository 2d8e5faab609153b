from datamodules.saliency.ensemble import saliency
from datamodules.saliency.threshold import otsu, to_mask
