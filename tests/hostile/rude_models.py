"""A model that does to its process, and leaves in it, what a model should not."""

RUDE = """
    import ctypes, io, os, stat, subprocess, sys, threading, time, multiprocessing
    from service import model, progress

    def talk(number):
        for step in progress(range(5)):
            print("a child's line", number, step)
        return number

    def pools(name):
        for _ in progress(range(5)):
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map(talk, range(2)) == [0, 1]

    def comes_back(name):
        if (child := os.fork()) != 0:
            assert os.waitpid(child, 0)[1] != 0

    def leaves_threads(name):
        def later():
            for _ in range(20):
                time.sleep(0.05)
                print("SECRET of", name)
                progress.update(0.5, f"SECRET of {name}")
        threading.Thread(target=later, daemon=True).start()
        threading.Timer(0.2, print, [f"SECRET of {name}"]).start()

    def closes(name):
        sys.stdout.close()
        sys.stderr.detach()
        sys.stdout = io.TextIOWrapper(sys.__stdout__.buffer, encoding="ascii")
        os.close(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def writes(name):
        os.write(1, b"from C\\n")
        os.write(2, b"from C\\n")
        subprocess.run(["echo", "from a child"])
        ctypes.CDLL(None).printf(b"half a line")
        for _ in range(5000):
            os.write(1, b"a flood\\n")

    def breaks_the_link(name):
        for fd in range(3, 100):
            try:
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    os.write(fd, b"no frame")
            except OSError:
                pass
        time.sleep(10)

    @model(timeout=20)
    def rude(name: str, how: str) -> str:
        globals()[how](name)
        return name
"""
