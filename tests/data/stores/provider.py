import json, re, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
state = {"files": {}, "batches": {}, "calls": []}
lock = threading.Lock()
DUMP = sys.argv[2]
def dump():
    with open(DUMP, "w") as f: json.dump(state, f, indent=0, sort_keys=True)
class H(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def out(self, code, body, raw=False):
        data = body if raw else json.dumps(body).encode()
        self.send_response(code); self.send_header("content-length", str(len(data))); self.send_header("content-type", "application/json"); self.end_headers(); self.wfile.write(data)
    def do_GET(self):
        p = self.path.split("?")[0]
        with lock:
            if p == "/v1/batches": return self.out(200, {"object": "list", "data": list(state["batches"].values())[::-1], "has_more": False})
            m = re.fullmatch(r"/v1/batches/([^/]+)", p)
            if m and m[1] in state["batches"]: return self.out(200, state["batches"][m[1]])
            m = re.fullmatch(r"/v1/files/([^/]+)/content", p)
            if m and m[1] in state["files"]: return self.out(200, state["files"][m[1]].encode(), True)
        self.out(404, {"error": {"message": "No such object", "type": "invalid_request_error"}})
    def do_DELETE(self):
        fid = self.path.rsplit("/", 1)[1]
        self.out(200, {"id": fid, "object": "file", "deleted": True})
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with lock:
            if self.path == "/v1/files":
                b = re.search(rb"boundary=\"?([^\";\s]+)", self.headers["content-type"].encode())[1]
                for part in body.split(b"--" + b):
                    if b'name="file"' in part: content = part.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n", 1)[0].decode()
                fid = "file-%d" % (len(state["files"]) + 1)
                state["files"][fid] = content; dump()
                return self.out(200, {"id": fid, "object": "file", "bytes": len(content), "created_at": int(time.time()), "filename": "in.jsonl", "purpose": "batch"})
            if self.path == "/v1/batches":
                q = json.loads(body); bid = "batch_%d" % (len(state["batches"]) + 1)
                n = state["files"][q["input_file_id"]].count("\n")
                t = int(time.time())
                state["batches"][bid] = {"id": bid, "object": "batch", "endpoint": q["endpoint"], "input_file_id": q["input_file_id"], "completion_window": "24h", "status": "in_progress", "created_at": t, "in_progress_at": t, "expires_at": t + 86400, "metadata": q.get("metadata"), "request_counts": {"total": n, "completed": 0, "failed": 0}}
                dump(); return self.out(200, state["batches"][bid])
            if self.path.endswith("/cancel"): return self.out(400, {"error": {"message": "no"}})
            if self.path == "/v1/chat/completions":
                q = json.loads(body); text = q["messages"][-1]["content"]
                state["calls"].append(text); dump()
                if "refuse" in text: return self.out(400, {"error": {"message": "This prompt is refused.", "type": "invalid_request_error", "code": "invalid_value", "param": "messages"}})
                return self.out(200, {"id": "c", "object": "chat.completion", "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}}], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}})
        self.out(404, {"error": {"message": "no such path"}})
host, port = sys.argv[1].split(":")
ThreadingHTTPServer((host, int(port)), H).serve_forever()
