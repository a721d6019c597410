#!/usr/bin/env bash
# Makes a virtual environment with nnU-Net, MONAI and surface-distance, without CUDA packages (1.9 GB, about two minutes), and prints the
# interpreter to put into AUTOSEG_PEER_PYTHON. Usage: benchmarks/make_peer_env.sh [FOLDER] (default ../peer).
# --no-deps, because with their dependencies these packages pull in the CUDA build of torch.
set -euo pipefail
folder=${1:-../peer}
[ -x "$folder/bin/python" ] || python3.11 -m venv "$folder"
{
  "$folder/bin/pip" install --upgrade pip
  "$folder/bin/pip" install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu ||
    "$folder/bin/pip" install torch==2.13.0
  "$folder/bin/pip" install --no-deps nnunetv2==2.8.1 dynamic-network-architectures==0.4.4 \
    batchgeneratorsv2==0.3.6 acvl-utils==0.2.6 batchgenerators==0.25.5 surface-distance==0.1
  "$folder/bin/pip" install numpy scipy scikit-image scikit-learn pandas SimpleITK nibabel blosc2 tqdm einops \
    connected-components-3d matplotlib seaborn tifffile imagecodecs requests dicom2nifti graphviz yacs threadpoolctl \
    fft-conv-pytorch monai==1.6.1 jsonschema
} >&2
"$folder/bin/python" -c "import nnunetv2, dynamic_network_architectures, monai, surface_distance"
realpath -s "$folder/bin/python"
