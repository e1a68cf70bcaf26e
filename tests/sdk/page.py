"""The page, as a person uses it: a headless browser, driven over its debug port, against a running server."""

import base64
import itertools
import json
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request

import websocket

URL, CONFIG, BROWSER = sys.argv[1:4]
PICTURE = sys.argv[4] if len(sys.argv) > 4 else None
with open(CONFIG, "rb") as f:
    SETTINGS = tomllib.load(f)
MAIN, SUB = SETTINGS["company"][0]["member"][:2]
passed = 0


def until(what, test):
    for _ in range(600):
        if found := test():
            return found
        time.sleep(0.05)
    sys.exit(f"{what}: never came")


class Tab:
    def __init__(self, socket):
        self.socket, self.numbers = websocket.create_connection(socket, suppress_origin=True), itertools.count(1)
        self.call("Page.enable")

    def call(self, method, gone=None, **params):
        """Answers `gone`, if that is given, where the page went away while the browser was asked."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                if gone is not None and "navigated" in str(answer.get("error")):
                    return gone
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']}")
                return answer["result"]

    def js(self, text, gone=None):
        got = self.call("Runtime.evaluate", gone, expression=text, returnByValue=True)
        if "exceptionDetails" in got:
            sys.exit(f"{text}: {got['exceptionDetails']['exception'].get('description')}")
        return got["result"].get("value")

    def ready(self):
        # Asked between two pages, the browser may say that the first one has just gone.
        left = {"result": {"value": False}}
        until("a page", lambda: self.js("document.readyState === 'complete' && !window.left", left))

    def go(self, path):
        self.js("window.left = true")
        self.call("Page.navigate", url=URL + path)
        self.ready()

    def text(self):
        return self.js("document.body.innerText")

    def submit(self, form, **fields):
        """Fills the form that `form` (an expression) gives, presses its button and waits for the next page."""
        self.js(f"""{{ const form = {form};
            for (let d = form.closest('details'); d; d = d.parentElement.closest('details')) d.open = true;
            const fields = {json.dumps(fields)};
            for (const name in fields) form.elements[name].value = fields[name];
            window.left = true;
            form.querySelector('button').click(); }}""", {"result": {}})
        self.ready()

    def shoot(self, name):
        if PICTURE:
            shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
            with open(f"{PICTURE}-{name}.png", "wb") as f:
                f.write(base64.b64decode(shot["data"]))


def check(what, got, want=True):
    global passed
    if got != want:
        sys.exit(f"{what}: {got!r}, expected {want!r}\n{tab.text()}")
    passed += 1


def form(action, snapshot=None):
    """The form of an action: of a snapshot's, whose actions are opened first, or the first."""
    where = "document"
    if snapshot is not None:
        where = f"[...document.querySelectorAll('.snap')].find(s => s.querySelector('b').textContent === {json.dumps(snapshot)})"
        if tab.js(f"!{where}.querySelector('form')"):
            tab.js("window.left = true")
            tab.js(f"{where}.querySelector('a').click()", {"result": {}})
            tab.ready()
    return f"{where}.querySelector('input[name=Action][value={action}]').form"


def tree():
    """The names down the tree of the disk that is shown, newest first, each with its depth."""
    return tab.js("""[...document.querySelector('.tree').querySelectorAll('li')].map(li => {
        let depth = 0;
        for (let up = li.parentElement; !up.classList.contains('tree'); up = up.parentElement) depth += up.tagName === 'UL';
        return depth + ' ' + li.querySelector('b').textContent; })""")


with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    browser = subprocess.Popen(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0",
         f"--user-data-dir={profile}", "--window-size=1100,900", "about:blank"],
        stderr=subprocess.DEVNULL)
    try:
        def port():
            try:
                with open(f"{profile}/DevToolsActivePort") as f:
                    return f.readline().strip()
            except OSError:
                return None

        port = until("the browser", port)
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
        tab = Tab(next(p for p in pages if p["type"] == "page")["webSocketDebuggerUrl"])

        tab.go("/")
        check("it asks who you are", "Sign in" in tab.text())
        tab.shoot("signin")
        tab.submit("document.forms[0]", public_key=MAIN["public_key"], private_key="x" * 64)
        check("a wrong key is refused", "wrong private key" in tab.text())
        tab.submit("document.forms[0]", public_key=MAIN["public_key"], private_key=MAIN["private_key"])
        check("signed in", "Sign out" in tab.text())
        check("the cookie is out of a script's reach", tab.js("document.cookie"), "")

        tab.submit(form("CreateDisk"), Name="data <b>&amp;</b>", DiskSpace="2")
        check("a disk is there, its name as it is", "data <b>&amp;</b>" in tab.text())
        tab.go("/")
        tab.submit(form("CreateDisk"), Name="'\"><script>window.bad=1</script>", DiskSpace="1")
        check("no markup of others", (tab.js("window.bad"), tab.js("document.scripts.length")), (None, 0))
        tab.submit("[...document.querySelectorAll('section')].find(s => s.innerText.includes('script')).querySelector('input[value=DeleteDisk]').form")
        check("back at the list", tab.text().count("GiB ·"), 1)
        tab.shoot("list")
        tab.js("window.left = true; document.querySelector('h2 a').click()", {"result": {}})
        tab.ready()
        check("an empty disk says what to do", "Take one above" in tab.text())
        for name in ["one", "two", "three"]:
            tab.submit(form("CreateSnapshot"), Name=name, Remark="remark of " + name)
        check("a line", tree(), ["1 the disk now", "1 three", "1 two", "1 one"])
        tab.submit(form("RollbackSnapshot", "one"))
        check("it says so", "Done: disk rolled back." in tab.text())
        check("rolled back", tree(), ["1 the disk now", "1 one", "2 three", "2 two"])
        check("it returns to its place", tab.js("location.hash"), "#now")
        tab.submit(form("CreateSnapshot"), Name="four")
        check("history branches", tree(), ["1 the disk now", "1 four", "1 one", "2 three", "2 two"])
        tab.submit(form("CreateSnapshot"), Name="five")
        tab.submit(form("RollbackSnapshot", "two"))
        tab.submit(form("CreateSnapshot"), Name="six")
        check("and branches", tree(), ["1 the disk now", "1 six", "1 two", "2 three", "1 one", "2 five", "2 four"])
        check("what branches off is closed", tab.js("[...document.querySelectorAll('details.aside')].map(d => d.open).join()"), "false,false")
        time.sleep(2.5)
        tab.go(tab.js("location.pathname + location.search"))
        time.sleep(0.5)
        tab.go(tab.js("location.pathname + location.search"))
        check("sizes", tab.js("document.body.textContent").count("its own"), 7)
        form("RollbackSnapshot", "two")
        tab.js("document.querySelector('.chosen details').open = true")
        tab.shoot("tree")
        tab.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
        tab.shoot("narrow")
        check("nothing is wider than a narrow page", tab.js("document.documentElement.scrollWidth <= 360"))
        tab.call("Emulation.clearDeviceMetricsOverride")
        tab.submit(form("CreateDiskFromSnapshot", "four"), Name="a copy")
        check("a clone", tab.js("[...document.querySelectorAll('h2')].map(h => h.innerText).includes('a copy')"))
        tab.go("/")
        tab.js("window.left = true; [...document.querySelectorAll('h2 a')].find(a => a.innerText.includes('data')).click()", {"result": {}})
        tab.ready()
        tab.submit(form("DeleteSnapshot", "three"))
        check("deleted", tree(), ["1 the disk now", "1 six", "1 two", "1 one", "2 five", "2 four"])
        for i in range(5):
            tab.submit(form("CreateSnapshot"), Name=f"more {i}")
        tab.submit(form("CreateSnapshot"), Name="one too many")
        check("a refusal is told", "the limit is 10 (code 7000)" in tab.text())
        tab.shoot("refused")

        tab.js("document.querySelectorAll('input[name=token]').forEach(t => t.value = 'x')")
        tab.submit(form("CreateSnapshot"), Name="forged")
        check("a form without its token", "from elsewhere" in tab.text())
        tab.go("/")
        forged = urllib.request.Request(URL + "/do", b"Action=DeleteDisk", {"Origin": "http://elsewhere.example"})
        try:
            urllib.request.urlopen(forged)
            sys.exit("a form from elsewhere was taken")
        except urllib.error.HTTPError as e:
            check("a form from elsewhere", e.code, 403)

        tab.submit("[...document.forms].find(f => f.action.endsWith('/signout'))")
        check("signed out", "Private key" in tab.text())
        tab.submit("document.forms[0]", public_key=SUB["public_key"], private_key=SUB["private_key"])
        check("a sub-account sees nothing of it", "No disks yet" in tab.text())
        tab.shoot("empty")
        tab.submit(form("CreateDisk"), Name="own", DiskSpace="1")
        tab.submit(form("CreateSnapshot"), Name="own snapshot")
        check("and has its own", tree(), ["1 the disk now", "1 own snapshot"])
        check("a snapshot is where it returns to", tab.js("document.querySelector(':target .snap b').innerText"), "own snapshot")
    finally:
        browser.kill()
        browser.wait()
print(f"{passed} passed, 0 failed")
