"""Drives the dashboard of a real server, with a simulated provider behind it, in Chromium.

    python dashboard.py BATCHWRIGHT CHROMIUM [FOLDER FOR SCREENSHOTS]
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

# Far beyond what anything here takes, also on a busy machine.
PATIENCE = 30
PAGES = ["", "processes", "jobs", "jobs/status=failed&type=x", "failures", "batches", "settings"]
TOKEN = "a token of this test"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(what: str, look):
    """What `look` finds, as soon as it finds something."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)
    return found


class Desk:
    """A server on a folder of its own, and the simulated provider behind it."""

    def __init__(self, program: str, folder: Path):
        self.program, self.folder = program, folder
        self.sim_port, self.port = free_port(), free_port()
        self.sim = self.server = self.public = None
        provider = f"http://127.0.0.1:{self.sim_port}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "OPENAI_API_KEY": "sk-of-no-account",
            "OPENAI_BASE_URL": f"{provider}/v1",
            "LOCAL_LLM_BASE_URL": f"{provider}/v1",
            "BATCHWRIGHT_MODEL": "sim-1",
        }

    @property
    def url(self) -> str:
        return self.public or f"http://127.0.0.1:{self.port}"

    def _start(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen:
        log = open(self.folder / f"{name}.log", "ab")
        return subprocess.Popen(
            [self.program, *arguments],
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def start_sim(self, *arguments: str):
        stop(self.sim)
        self.sim = self._start("sim", "simulate", "--port", str(self.sim_port), *arguments)
        until("the simulator", lambda: answers(f"http://127.0.0.1:{self.sim_port}/v1/models"))

    def start_server(self, *arguments: str, **environment: str):
        self.server = self._start(
            "server", "serve", "--port", str(self.port), "--data-dir", str(self.folder), *arguments, **environment
        )
        until("the server", lambda: answers(f"http://127.0.0.1:{self.port}/healthz"))

    def config(self, key: str, value: str):
        command = [self.program, "config", "set", key, value, "--data-dir", str(self.folder)]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)

    def submit(self, name: str, prompts: list[str]) -> str:
        lines = "".join(json.dumps({"id": f"a-{at}", "prompt": text}) + "\n" for at, text in enumerate(prompts))
        query = urllib.parse.urlencode({"type": "completion", "name": name})
        request = urllib.request.Request(f"{self.url}/api/v1/processes?{query}", lines.encode())
        request.add_header("content-type", "application/jsonl")
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)["process_id"]

    def get(self, path: str):
        with urllib.request.urlopen(f"{self.url}/api/v1{path}", timeout=PATIENCE) as answer:
            return json.load(answer)

    def stop(self):
        stop(self.server)
        stop(self.sim)


def stop(process):
    if process is None:
        return
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def status(url: str) -> int | None:
    """The status of the response; `None` while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def answers(url: str) -> bool:
    return status(url) is not None


class Watch:
    """What must not happen on a page: errors, violations of its policy, requests to anybody else."""

    def __init__(self, page: Page, desk: Desk):
        self.troubles: list[str] = []
        self.loads: list[str] = []
        page.on("console", lambda said: said.type in ("error", "warning") and self.troubles.append(f"{said.text} {said.location.get('url', '')}"))
        page.on("pageerror", lambda error: self.troubles.append(f"{error}"))
        page.on("dialog", lambda dialog: (self.troubles.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.loads.append(request.url.removeprefix(desk.url)))
        page.add_init_script(
            "document.addEventListener('securitypolicyviolation', e => console.error('violation', e.violatedDirective, e.blockedURI))"
        )

    def is_clean(self):
        assert not self.troubles, self.troubles
        others = [url for url in self.loads if not url.startswith(("/api/v1/", "data:", "blob:")) and url.split("#")[0] != "/"]
        assert not others, others


def value_of(page: Page, term: str):
    """The value that belongs to this term of a list of facts."""
    return page.locator(f"xpath=//main//dt[normalize-space()='{term}']/following-sibling::dd[1]")


def setting(page: Page, key: str):
    return page.locator(f"form[data-setting='{key}']")


def save(page: Page, key: str, value: str):
    field = setting(page, key).locator("[name=value]")
    if field.evaluate("field => field.nodeName") == "SELECT":
        field.select_option(value)
    else:
        field.fill(value)
    setting(page, key).get_by_role("button", name="Save").click()
    expect(page.get_by_text(f"Saved: {value}.")).to_be_visible()


def tab_to(page: Page, what: str):
    """Goes on with the tabulator key alone until this has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.textContent.trim()") == what:
            # Whoever goes by keyboard sees where they are.
            assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") != "none", what
            return
    raise AssertionError(f"no way by keyboard to {what}")


def opens_empty(page: Page, desk: Desk, watch: Watch):
    answer = page.goto(f"{desk.url}/")
    assert len(answer.body()) < 100_000
    expect(page.locator("#link")).to_have_text("Live")
    expect(page.get_by_text("Nothing is queued.")).to_be_visible()
    expect(page).to_have_title("Overview · batchwright")
    # What the page tells people to type does what it says.
    command = page.locator("pre", has_text="curl").inner_text()
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    if "curl: command not found" not in told.stderr:
        assert '"job_id"' in told.stdout, told
        expect(value_of(page, "Completed")).to_have_text("1")
    watch.is_clean()


def progress_moves(page: Page, desk: Desk) -> str:
    prompts = [f"Name the river number {number}." for number in range(600)]
    process = desk.submit("evening <img src=x onerror=alert(1)>", prompts)
    bar = page.locator(f"[data-key='{process}'] [role=progressbar]")
    expect(bar).to_be_visible()
    now = lambda: int(bar.get_attribute("aria-valuenow") or 0)
    first = until("progress", now)
    until("more progress", lambda: now() > first)
    expect(value_of(page, "Slots")).to_contain_text("2 of")
    expect(page.get_by_role("link", name="evening <img src=x onerror=alert(1)>").first).to_be_visible()
    return process


def concurrency_takes_effect(page: Page):
    page.get_by_role("link", name="Settings").first.click()
    expect(page.get_by_role("heading", name="Settings", level=1)).to_be_focused()
    field = setting(page, "llm.sync_concurrency").locator("[name=value]")
    field.fill("many")
    field.press("Enter")
    said = page.locator("[data-key='llm.sync_concurrency'] [role=status]")
    expect(said).to_contain_text("a whole number from 1 to 10000")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    save(page, "llm.sync_concurrency", "8")
    page.get_by_role("link", name="Overview").click()
    expect(value_of(page, "Slots")).to_contain_text("8 of")


def overridden_is_shown(page: Page):
    page.get_by_role("link", name="Settings").first.click()
    field = setting(page, "llm.model").locator("[name=value]")
    expect(field).to_be_disabled()
    expect(field).to_have_value("sim-1")
    expect(page.get_by_text("Overridden.")).to_have_count(1)
    expect(page.get_by_text("set by the environment (BATCHWRIGHT_MODEL)")).to_be_visible()


def ends_and_is_downloaded(page: Page, desk: Desk, process: str) -> dict:
    until("the end of the process", lambda: desk.get(f"/processes/{process}")["percent"] == 100)
    counts = desk.get(f"/processes/{process}")
    assert counts["failed"] > 0, counts
    page.goto(f"{desk.url}/#/process/{process}")
    expect(page.get_by_text("finished with failures")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_text("Download results").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert len(lines) == counts["total"], len(lines)
    return counts


def jobs_are_found(page: Page, desk: Desk, process: str, counts: dict) -> dict:
    page.goto(f"{desk.url}/")
    page.locator("dt", has_text=re.compile("^Failed$")).locator("xpath=following-sibling::dd[1]").get_by_role("link").click()
    found = page.get_by_role("table", name="Jobs found").locator("tbody tr")
    expect(found).to_have_count(min(counts["failed"], 50))
    page.get_by_label("Type").fill("no such type")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No job on the queue is like this.")).to_be_visible()
    page.get_by_label("Type").fill("completion")
    page.get_by_role("button", name="Search").click()
    expect(found).to_have_count(min(counts["failed"], 50))
    found.first.locator("th a").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"^Job a-\d+$"))
    expect(page.get_by_role("group", name="Prompt")).to_contain_text("Name the river number")
    page.get_by_role("button", name="Retry", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    expect(page.locator("#said")).to_contain_text("will be tried again")
    ended = lambda: (now := desk.get(f"/processes/{process}"))["percent"] == 100 and now
    counts = until("the end of the retried job", ended)
    page.goto(f"{desk.url}/#/process/{process}")
    expect(page.get_by_role("table", name="The first jobs of the process").locator("tbody tr")).to_have_count(20)
    return counts


def queue_is_paused(page: Page, desk: Desk):
    page.goto(f"{desk.url}/")
    expect(page.get_by_role("table", name="Cost by day and model")).to_contain_text("sim-1")
    expect(page.get_by_text("Time left", exact=True)).to_be_visible()
    page.get_by_role("button", name="Pause the queue").click()
    expect(page.locator("[data-key=paused]")).to_contain_text("The queue is paused.")
    process = desk.submit("\u05e9\u05dc\u05d5\u05dd 7", ["Name a pass."])
    row = page.locator(f"[data-key='{process}']")
    expect(row).to_contain_text("not started")
    # A name that is written from right to left turns nothing else around.
    expect(row.locator("bdi")).to_have_text("\u05e9\u05dc\u05d5\u05dd 7")
    page.locator("[data-key=paused]").get_by_role("button", name="Resume the queue").evaluate("(button) => button.click()")
    until("the end of the process", lambda: desk.get(f"/processes/{process}")["completed"] == 1)
    expect(page.locator("[data-key=paused]")).to_have_count(0)


def failed_jobs_are_retried_by_keyboard(page: Page, desk: Desk, process: str, counts: dict):
    page.goto(f"{desk.url}/#/failures")
    expect(page.locator(f"[data-key='{process}'] tbody tr").first).to_contain_text("invalid")
    page.locator(f"[data-key='{process}'] tbody a").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"^Job a-\d+$"))
    expect(page.get_by_role("table", name="Errors, by try")).to_contain_text("The simulator refuses this prompt.")
    page.go_back()
    desk.start_sim("--latency", "250ms", "--batch-duration", "8s")  # What was wrong is over.
    page.reload()
    button = f"Retry {counts['failed']} failed"
    expect(page.get_by_role("button", name=button)).to_be_visible()
    tab_to(page, button)
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name=re.compile("^Retry .* failed jobs?[?]$"))
    expect(dialog).to_be_visible()
    # Who does not want it is out with one key, and back where they were.
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name=button)).to_be_focused()
    # A question can be asked again before the browser reports that the first one is closed.
    asked_again = """async (button) => {
        button.click();
        document.getElementById("ask-no").click();
        for (let turn = 0; turn < 20; turn += 1) await null;
        button.click();
        return document.getElementById("ask").open;
    }"""
    assert page.get_by_role("button", name=button).evaluate(asked_again), "the second click was ignored"
    expect(dialog).to_be_visible()
    tab_to(page, "Retry")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("will be tried again")
    until("the retried jobs", lambda: desk.get(f"/processes/{process}")["completed"] == counts["total"])
    expect(page.get_by_text("No job on the queue has failed.")).to_be_visible()


def strategy_is_switched(page: Page, desk: Desk):
    page.get_by_role("link", name="Settings").first.click()
    save(page, "llm.bulk_strategy", "batch")
    expect(page.get_by_text("Not used for prompts that go to the provider in batches.")).to_be_visible()
    page.get_by_role("link", name="Batches").click()
    expect(page.get_by_text("No batch is open at a provider.")).to_be_visible()
    process = desk.submit("by batch", [f"Name the lake number {number}." for number in range(20)])
    row = page.locator(f"[data-key^='{process}']")
    expect(row).to_contain_text("openai")
    expect(row).to_contain_text(re.compile(r"\d+ s$"))
    until("the end of the batch", lambda: desk.get(f"/processes/{process}")["completed"] == 20)


def fallback_is_told(page: Page):
    page.get_by_role("link", name="Settings").first.click()
    notice = page.get_by_text("The strategy batch is set, and sync is used.")
    expect(notice).to_have_count(0)
    save(page, "llm.provider", "local")
    expect(notice).to_be_visible()
    expect(page.locator("[data-key=fallback]")).to_contain_text("local has no Batch API")
    expect(setting(page, "llm.bulk_strategy").locator("[name=value]")).to_have_value("batch")


def process_is_cancelled(page: Page, desk: Desk):
    process = desk.submit("to be cancelled", [f"Name the hill number {number}." for number in range(300)])
    page.goto(f"{desk.url}/#/process/{process}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the process").click()
    expect(page.locator("#said")).to_contain_text("cancelled")
    until("the cancelled process", lambda: desk.get(f"/processes/{process}")["cancelled"] > 0)
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_have_count(0)


def goes_on_without_events(browser, desk: Desk):
    page = browser.new_page()
    page.route("**/api/v1/events", lambda route: route.fulfill(status=503, body="{}"))
    page.goto(f"{desk.url}/#/processes")
    expect(page.locator("#link")).to_have_text("Updated every 5 s")
    process = desk.submit("seen late", ["Name a valley."])
    expect(page.locator(f"[data-key='{process}']")).to_contain_text("100.0 % of 1")
    page.close()


def many_processes_are_shown_in_pages(browser, page: Page, desk: Desk):
    for number in range(60):
        desk.submit(f"small {number}", [f"Name the sea number {number}."])
    until("all of them finished", lambda: not desk.get("/processes?state=open")["data"])
    in_order = [f"small {number}" for number in range(59, 9, -1)]
    page.goto(f"{desk.url}/#/processes")
    page.reload()
    names = page.locator("tbody th")
    expect(names).to_contain_text(in_order)
    page.get_by_role("button", name="Show older ones").click()
    expect(page.get_by_role("link", name="by batch")).to_be_visible()

    # Created in one millisecond, and known to the page in another order, as events bring them.
    def at_once(route):
        answer = route.fetch().json()
        answer["data"] = [{**process, "created_at": answer["data"][0]["created_at"]} for process in reversed(answer["data"])]
        route.fulfill(json=answer)

    other = browser.new_page()
    other.route("**/api/v1/processes?limit=50", at_once)
    other.goto(f"{desk.url}/#/processes")
    expect(other.locator("tbody th")).to_contain_text(in_order)
    other.close()


def looks_right(browser, desk: Desk, shots):
    found = desk.get("/processes?limit=500")["data"]
    process = next(one["process_id"] for one in found if (one["name"] or "").startswith("evening"))
    job = desk.get(f"/jobs?process_id={process}")["data"][0]["job_id"]
    pages = [*PAGES, f"process/{process}", f"job/{job}"]
    axe = os.environ.get("AXE") and Path(os.environ["AXE"]).read_text()
    for scheme, width in (("light", 1200), ("dark", 1200), ("light", 360)):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce")
        page = context.new_page()
        watch = Watch(page, desk)
        for name in pages:
            page.goto(f"{desk.url}/#/{name}")
            expect(page.locator("#link")).to_have_text("Live")
            expect(page.get_by_text("Loading …")).to_have_count(0)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{name} is {wide} px wide on a screen of {width}"
            if axe:
                page.evaluate(f"() => {{ {axe} }}")
                faults = page.evaluate("() => axe.run().then((run) => run.violations.map((one) => [one.id, one.nodes.map((node) => node.html)]))")
                assert not faults, f"axe-core on {name}, {scheme}, {width} px: {faults}"
            if shots:
                page.screenshot(path=shots / f"{scheme}-{width}-{name.split('&')[0].replace('/', '-')[:20] or 'overview'}.png", full_page=True)
        watch.is_clean()
        context.close()


def outage_is_told(page: Page, desk: Desk):
    page.goto(f"{desk.url}/#/processes")
    expect(page.locator("#link")).to_have_text("Live")
    stop(desk.server)
    expect(page.locator("#banner")).to_contain_text("has not been reachable since")
    desk.start_server(BATCHWRIGHT_TOKEN=TOKEN)
    # It wants a token now: what comes back is not the data but the question.
    expect(page.get_by_role("heading", name="Token")).to_be_visible()
    page.get_by_label("Token").fill("another token")
    page.keyboard.press("Enter")
    expect(page.get_by_text("This token is not the server's.")).to_be_visible()
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#link")).to_have_text("Live")
    expect(page.get_by_role("table", name="Processes, those that run first, then the newest")).to_be_visible()
    resumed = []
    page.on("request", lambda request: resumed.append(request.headers.get("last-event-id")))
    stop(desk.server)
    expect(page.locator("#banner")).to_contain_text("has not been reachable since")
    desk.start_server(BATCHWRIGHT_TOKEN=TOKEN)
    expect(page.locator("#banner")).to_contain_text("reachable again")
    expect(page.locator("#link")).to_have_text("Live")
    assert any(resumed), "the stream is asked for what follows on the last event"


def snippet(language: str, begins: str) -> str:
    """The configuration of a proxy in docs/server.md."""
    page = (Path(__file__).parents[4] / "docs/server.md").read_text()
    return re.search(rf"```{language}\n({begins}.*?)```", page, re.S)[1]


def nginx(desk: Desk, port: int) -> list[str]:
    place = snippet("nginx", "location").replace("127.0.0.1:8787", f"127.0.0.1:{desk.port}")
    folder = desk.folder / "nginx"
    folder.mkdir()
    temporary = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port};\n{place} }} }}\n"
    )
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def caddy(desk: Desk, port: int) -> list[str]:
    place = snippet("text", "ai.example.com").replace("127.0.0.1:8787", f"127.0.0.1:{desk.port}")
    (desk.folder / "Caddyfile").write_text("{\nadmin off\n}\n" + place.replace("ai.example.com", f"http://127.0.0.1:{port}"))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(desk.folder / "Caddyfile")]


def traefik(desk: Desk, port: int) -> list[str]:
    place = snippet("yaml", "http:").replace("127.0.0.1:8787", f"127.0.0.1:{desk.port}")
    # There is no certificate for this machine.
    place = place.replace("ai.example.com", "127.0.0.1").replace("      tls: {}\n", "")
    (desk.folder / "traefik.yaml").write_text(place)
    return [
        "traefik",
        f"--providers.file.filename={desk.folder}/traefik.yaml",
        f"--entrypoints.web.address=127.0.0.1:{port}",
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
    ]


def works_behind(browser, program: str, name: str, command):
    """The page and its buttons, through a proxy."""
    # The folder goes last: until the server has ended, it writes there.
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as end:
        desk = Desk(program, Path(folder))
        end.callback(desk.stop)
        port = free_port()
        public = f"http://127.0.0.1:{port}"
        for key, value in SETTINGS.items():
            desk.config(key, value)
        desk.start_sim("--latency", "100ms", "--trouble", "bad_request=0.05")
        desk.start_server()
        with open(desk.folder / "proxy.log", "wb") as log:
            proxy = subprocess.Popen(command(desk, port), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end.callback(stop, proxy)
        desk.public = public
        page = end.enter_context(contextlib.closing(browser.new_context(accept_downloads=True))).new_page()
        watch = Watch(page, desk)
        try:
            # Until it has read its configuration, Traefik answers 404.
            until(name, lambda: status(f"{public}/healthz") == 200)
            page.goto(f"{public}/")
            watch.loads.clear()
            opens_empty(page, desk, watch)
            process = progress_moves(page, desk)
            watch.is_clean()
            concurrency_takes_effect(page)
            watch.troubles.clear()
            counts = ends_and_is_downloaded(page, desk, process)
            jobs_are_found(page, desk, process, counts)
            queue_is_paused(page, desk)
            process_is_cancelled(page, desk)
            # More than the proxies accept by default.
            large = desk.submit("large", ["x" * 1_000_000] * 3)
            assert desk.get(f"/processes/{large}")["total"] == 3
            watch.is_clean()
        except BaseException:
            print((desk.folder / "proxy.log").read_text()[-3_000:], file=sys.stderr)
            print(page.locator("body").inner_text()[:3_000], file=sys.stderr)
            raise


SETTINGS = {
    "llm.provider": "openai",
    "llm.sync_concurrency": "2",
    "llm.requests_per_minute": "100000",
    "batch.poll_interval": "1s",
}


def main(program: str, chromium: str, shots: Path | None):
    expect.set_options(timeout=PATIENCE * 1_000)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as end, sync_playwright() as playwright:
        desk = Desk(program, Path(folder))
        end.callback(desk.stop)
        for key, value in SETTINGS.items():
            desk.config(key, value)
        desk.start_sim("--latency", "250ms", "--trouble", "bad_request=0.05")
        desk.start_server()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_context(accept_downloads=True, viewport={"width": 1200, "height": 900}).new_page()
        watch = Watch(page, desk)

        def step(what: str, result=None):
            print(f"ok  {what}", flush=True)
            return result

        try:
            step("an empty queue says what to do", opens_empty(page, desk, watch))
            process = step("progress moves", progress_moves(page, desk))
            watch.is_clean()
            step("a new concurrency takes effect", concurrency_takes_effect(page))
            watch.troubles.clear()  # The browser itself reports the 400 that was asked for.
            step("a value of the environment is shown as such", overridden_is_shown(page))
            counts = step("the results are downloaded", ends_and_is_downloaded(page, desk, process))
            counts = step("jobs are found, and one is retried", jobs_are_found(page, desk, process, counts))
            step("failed jobs are retried, by keyboard", failed_jobs_are_retried_by_keyboard(page, desk, process, counts))
            step("the strategy is switched, and a batch is shown", strategy_is_switched(page, desk))
            step("a local provider makes batch fall back to sync", fallback_is_told(page))
            step("a process is cancelled", process_is_cancelled(page, desk))
            step("without events the page looks every 5 s", goes_on_without_events(browser, desk))
            step("the queue is paused and resumed", queue_is_paused(page, desk))
            step("many processes are shown in pages", many_processes_are_shown_in_pages(browser, page, desk))
            step("all pages in light, dark and on a phone", looks_right(browser, desk, shots))
            watch.is_clean()
            step("an outage is told, and a token asked for", outage_is_told(page, desk))
            for name, command in {"nginx": nginx, "caddy": caddy, "traefik": traefik}.items():
                if shutil.which(name):
                    step(f"the page works behind {name}", works_behind(browser, program, name, command))
                else:
                    print(f"SKIPPED: {name} is not installed")
        except BaseException:
            page.screenshot(path=(shots or Path(tempfile.gettempdir())) / "dashboard-failed.png")
            print(page.locator("body").inner_text()[:3_000], file=sys.stderr)
            print((desk.folder / "server.log").read_text()[-3_000:], file=sys.stderr)
            raise
        finally:
            browser.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]) if len(sys.argv) > 3 else None)
