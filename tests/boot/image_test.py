# SPDX-License-Identifier: Apache-2.0
"""`mayfly run --image`: Linux guests on imported container images."""

import pathlib
import tarfile

import harness
from image_layout import make_layer, write_layout

BUSYBOX = pathlib.Path("/bin/busybox")
TOOLS = ("sh", "cat", "ls", "stat", "env", "touch", "id", "grep")


class ImageTest(harness.Case):
    def setUp(self):
        super().setUp()
        self.store = self.dir / "images"
        self.work.env["MAYFLY_IMAGE_DIR"] = str(self.store)

    def make_image(self, name, **config):
        base = make_layer(("bin", None), ("bin/busybox", {"data": BUSYBOX.read_bytes(), "mode": 0o755}),
                          *((f"bin/{tool}", {"type": tarfile.SYMTYPE, "linkname": "busybox"}) for tool in TOOLS),
                          ("srv", None), ("srv/hidden", b"no"),
                          ("srv/own", {"data": b"theirs", "uid": 70000, "gid": 5}),
                          ("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:70000:33::/srv:/bin/sh\n"),
                          ("etc/group", b"root:x:0:\nlogs:x:4:web\n"),
                          ("srv/twin", {"type": tarfile.LNKTYPE, "linkname": "srv/own"}))
        upper = make_layer(("srv/.wh.hidden", b""), ("srv/page", {"data": b"page two\n", "mtime": 1_000_000_000}))
        layout = write_layout(self.dir / f"{name}.oci", base, upper, packed="gzip", config=config)
        end = self.mayfly("image", "import", layout, "--name", name)
        self.assertEqual((end.code, end.err), (0, b""), end)

    def run_image(self, *arguments):
        return self.mayfly("run", "--image", *arguments)

    def stored(self):
        return sorted(path.name for path in self.store.iterdir())

    def test_an_images_own_command_runs_with_its_environment_and_directory(self):
        self.make_image("own", Entrypoint=["/bin/sh", "-c"],
                        Cmd=['echo "$GREETING $PATH"; pwd; cat page; ls; stat -c "%u:%g %h %a" own; exit 7'],
                        Env=["GREETING=hello there", "PATH=/bin"], WorkingDir="/srv")
        end = self.run_image("own")
        self.assertEqual((end.code, end.err), (7, b""), end)
        self.assertEqual(end.out.decode(), "hello there /bin\n/srv\npage two\nown\npage\ntwin\n70000:5 2 644\n")
        end = self.run_image("own", "--env", "GREETING=bye", "--workdir", "/bin", "--", "sh", "-c",
                             "echo $GREETING; pwd; stat -c %Y /srv/page")
        self.assertEqual((end.code, end.out), (0, b"bye\n/bin\n1000000000\n"), end)

    def test_the_images_user_runs_its_command_and_nothing_else(self):
        script = "id -u; id -g; id -G; echo $HOME; grep -h Cap[EPI] /proc/self/status; echo ok >/srv/own; cat /srv/own"
        self.make_image("user", User="web", Cmd=["sh", "-c", script])
        end = self.run_image("user", "--writable")
        self.assertEqual((end.code, end.err), (0, b""), end)
        none = "0" * 16
        self.assertEqual(end.out.decode(), f"70000\n33\n33 4\n/srv\nCapInh:\t{none}\nCapPrm:\t{none}\n"
                                           f"CapEff:\t{none}\nok\n")
        end = self.run_image("user", "--writable", "--user", "9:8", "--", "sh", "-c", "id -G; id -u; echo no >/srv/own")
        self.assertEqual((end.code, end.out), (1, b"8\n9\n"), end)
        self.assertIn(b"Permission denied", end.err)
        end = self.run_image("user", "--user", "web", "--", "true")
        self.assertEqual((end.code, end.out), (125, b""), end)
        self.assertIn(b"--user", end.err)

    def test_the_image_is_read_only_and_a_writable_run_has_a_copy_that_goes_with_it(self):
        self.make_image("web")
        rootfs = self.store / "web" / "rootfs.ext4"
        before = harness.sha256(rootfs.read_bytes())
        end = self.run_image("web", "--", "touch", "/srv/new")
        self.assertNotEqual(end.code, 0, end)
        self.assertIn(b"Read-only file system", end.err)
        script = "echo kept >/srv/new && cat /srv/new && read line && echo $line"
        child = self.work.popen([harness.MAYFLY, "run", "--image", "web", "--writable", "--", "sh", "-c", script],
                                stdin=-1, stdout=-1)
        self.assertEqual(child.stdout.readline(), b"kept\n")
        # The command runs, and its disk has no name any more.
        self.assertEqual(self.stored(), ["web"])
        self.assertEqual(harness.sha256(rootfs.read_bytes()), before)
        self.assertEqual(self.mayfly("image", "rm", "web").code, 0)
        out, _ = child.communicate(b"went on\n", harness.PATIENCE)
        self.assertEqual((child.returncode, out), (0, b"went on\n"))
        self.assertEqual(self.stored(), [])
