import orjson
from tests.gateway.test_submissions import submit
from events.log import EventLog
async def test_debug(client, world, service, nats):
    c=(await submit(client, world, wait_s=10)).json()
    sid=c["submission_id"]; org=world.org_id
    log=EventLog(nats)
    h=await log.history(org,"submission",sid)
    r=[x async for x in log.read(0,f"events.{org}.>")]
    if h and r: return
    print("HIST",len(h),"READ",len(r),"AT",await log.at(c["run"]["position"]),"STATE",await log.state())
    for req in ({"multi_last":[f"events.{org}.submission.{sid}.>"],"batch":10},{"seq":1,"next_by_subj":f"events.{org}.>","batch":10},{"last_by_subj":f"events.{org}.submission.{sid}.1.log.submission"},{"seq":1,"next_by_subj":f"events.{org}.submission.{sid}.1.log.submission"}):
        m=await nats.request("$JS.API.DIRECT.GET.EVENTS",orjson.dumps(req),timeout=3)
        print("DIRECT",list(req),m.headers,len(m.data))
    for req in ({"last_by_subj":f"events.{org}.submission.{sid}.>"},{"seq":1,"next_by_subj":f"events.{org}.>"}):
        m=await nats.request("$JS.API.STREAM.MSG.GET.EVENTS",orjson.dumps(req),timeout=3)
        print("GET",list(req),m.data[:300])
    m=await nats.request("$JS.API.STREAM.INFO.EVENTS",orjson.dumps({"subjects_filter":f"events.{org}.>"}),timeout=3)
    print("INFO",m.data[:3000])
    assert 0
