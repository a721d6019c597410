"""Run by an interpreter that has nnU-Net: its command `nnUNetv2_predict` with a stated number of threads.

    python predict_peer.py THREADS half|float32 ARGUMENTS OF nnUNetv2_predict

On the CPU the command itself takes as many threads as the machine has cores, whatever it may use. `half` sums tiles as
nnU-Net does; with `float32` its rounding is out of the way.
"""

import sys

if __name__ == "__main__":  # its workers read this file again
    import multiprocessing

    threads, sums, *arguments = sys.argv[1:]
    multiprocessing.cpu_count = lambda: int(threads)
    import torch

    torch.half = torch.float32 if sums == "float32" else torch.float16
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point

    sys.argv = ["nnUNetv2_predict", *arguments]
    predict_entry_point()
