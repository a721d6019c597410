"""Run by an interpreter that has nnU-Net: its command `nnUNetv2_predict` with a stated number of threads.

    python predict_peer.py THREADS ARGUMENTS OF nnUNetv2_predict

On the CPU the command itself takes as many threads as the machine has cores, whatever it may use.
"""

import sys

if __name__ == "__main__":  # its workers read this file again
    import multiprocessing

    threads, *arguments = sys.argv[1:]
    multiprocessing.cpu_count = lambda: int(threads)
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point

    sys.argv = ["nnUNetv2_predict", *arguments]
    predict_entry_point()
