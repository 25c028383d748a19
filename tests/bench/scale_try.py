"""usage: scale_try.py N..."""
import sys, time, statistics, gc
from p2pfleet.sim.run import *
from p2pfleet.sim import run as R
from p2pfleet.sim.scenario import Scenario, load_scenario
import msgspec
from p2pfleet.sim.cluster import Cluster
from p2pfleet.sim.kernel import Kernel
from p2pfleet.sim.trace import Trace
from p2pfleet.resources import resource_path
import p2pfleet.sim.scenario as sc
from p2pfleet.core import events as ev
base=load_scenario(resource_path('testnet','scenarios','honest.toml'))
class Quiet:
    def stepped(self,*a): pass
    synced=acting=restored=died=stepped
for n in map(int, sys.argv[1:]):
    units=4*n
    S=max(1,n//16)
    ms=(msgspec.structs.replace(base.machines[0]), msgspec.structs.replace(base.machines[1], count=n, unit_ms=(2000,6000)))
    jobs=(msgspec.structs.replace(base.jobs[0], units=units, shards=S, crowd=n, custodians=n),)
    net=msgspec.structs.replace(base.network, degree=16)
    s=msgspec.structs.replace(base, machines=ms, jobs=jobs, network=net)
    k=Kernel(1); tr=Trace(None); c=Cluster(s,k,tr); c.world.witness=Quiet()
    cpu={}; count={}
    import p2pfleet.sim.machine as M
    orig=M.Machine._step
    def step(self,event,into):
        t=time.process_time_ns(); depth=getattr(self,'_d',0); self._d=depth+1
        orig(self,event,into); self._d=depth
        if depth==0:
            cpu[self.number]=cpu.get(self.number,0)+time.process_time_ns()-t
        count[self.number]=count.get(self.number,0)+1
    M.Machine._step=step
    def look():
        if c.over(): k.halt()
        else: k.later(1000,look)
    c.begin(); k.later(1000,look); t0=time.process_time(); gc.disable()
    k.run(1_800_000)
    M.Machine._step=orig
    job=next(iter(c.published)); pub=c.publisher(job)
    done=sum(r.state=='settled' for r in pub.disk.jobs[job].units.values())
    vol=[cpu.get(i,0)/1000/(units/n) for i in range(1,n+1)]
    print(f"n={n} S={S} units={units} settled={done} simtime={k.now/1000:.0f}s exec={sum(m.compute.executed for m in c.machines)} msgs/unit={c.network.delivered/units:.0f} events/unit={tr.steps/units:.0f} cpu_us per own unit median={statistics.median(vol):.0f} worst={max(vol):.0f} publisher cpu/unit={cpu.get(0,0)/1000/units:.0f}us most_conn={getattr(c.network,'most_connections',0)} cpu={time.process_time()-t0:.0f}s", flush=True)
